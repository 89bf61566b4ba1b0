"""Serves a model over HTTP: in this process, or by processes of Ray Serve."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from adar_ray.serving.listener import listen
from adar_ray.serving.local_server import serve_here
from adar_ray.serving.served_model import check_model

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def served(
    address: str,
    host: str,
    port: int,
    replicas: int = 0,
    *,
    new_items: str | None = None,
    trust: bool = False,
) -> Iterator[str]:
    """Serves a model until the block ends; yields the URL. Requests in flight at the end are answered.

    Args:
        address: a run, a copy of its `model/`, or what `publish` fills. Another model that is put there
            takes its place.
        host: the address to listen on.
        port: 0 for any that is free.
        replicas: processes of Ray Serve that answer. Each holds the model, and takes a CPU. 0 for this
            process, without Ray.
        new_items: a file of items that were not there in training, with their features, which answers have
            beside the others. Only for `twotower`; any other model that takes its place is served without.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: there is no model, it cannot take new items, the port is taken, or Ray Serve is already
            running in this cluster.
    """
    notes = check_model(address, new_items=new_items, trust=trust)
    if replicas:
        from adar_ray.serving.ray_server import serve_by_ray

        for note in notes:  # what a replica logs stays in a file of Ray's
            logger.warning("note: %s", note)
        with serve_by_ray(address, host, port, replicas, new_items=new_items, trust=trust) as port:
            yield _url(host, port)
        return
    listener = listen(host, port)
    with serve_here(address, listener, new_items=new_items, trust=trust):
        yield _url(host, listener.getsockname()[1])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
