"""Serves a model in this process, without Ray."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn

from adar_ray.process import log_levels_kept, torch_threads
from adar_ray.serving.app import make_app
from adar_ray.serving.served_model import ServedModel

GOODBYE_SECONDS = 4  # for requests in flight at the end


@contextlib.contextmanager
def serve_here(
    address: str, listener: socket.socket, *, new_items: str | None = None, trust: bool = False
) -> Iterator[None]:
    """Serves a model until the block ends, in threads of this process.

    Args:
        address, new_items, trust: as for `served`.
        listener: what requests come to; closed at the end.
    """
    ended = threading.Event()
    with listener, torch_threads(1), log_levels_kept():
        model = ServedModel(address, new_items=new_items, trust=trust)
        config = uvicorn.Config(
            make_app(model),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        model.follow(ended)
        try:
            yield
        finally:
            ended.set()
            server.should_exit = True
            thread.join()
