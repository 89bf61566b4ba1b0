"""Serves a model by processes of Ray Serve, on this machine or on a cluster, whose head listens."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve._private import replica
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from adar_ray.errors import AdarError
from adar_ray.ray_address import LOOPBACK, ray_address
from adar_ray.ray_session import ray_session
from adar_ray.serving.app import MOST_WAITING, make_app
from adar_ray.serving.listener import listen
from adar_ray.serving.served_model import ServedModel

NAME = "adar-ray"
GOODBYE_SECONDS = 2.0  # for requests in flight at the end


@serve.ingress()
class _Replica:
    def __init__(self, address: str, new_items: str | None, trust: bool) -> None:
        _listen_on_loopback()
        self._model = ServedModel(address, new_items=new_items, trust=trust)
        self._model.follow(threading.Event())

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._model)


@contextlib.contextmanager
def serve_by_ray(
    address: str, host: str, port: int, replicas: int, *, new_items: str | None = None, trust: bool = False
) -> Iterator[int]:
    """Serves a model until the block ends; yields the port. Takes the arguments of `served`."""
    if ray_address() is None:
        with listen(host, port) as listener:  # is it free? Ray Serve would say no more than that it failed
            port = listener.getsockname()[1]
    elif not port:
        raise AdarError("--port 0: finds no free port on a cluster's head; name one")
    with ray_session(replicas):
        if serve.status().proxies:
            raise AdarError("Ray Serve is already running in this Ray cluster; end it, or unset RAY_ADDRESS")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            serve.start(ProxyLocation.HeadOnly, HTTPOptions(host=host, port=port))
            deployment = serve.deployment(
                name=NAME,
                num_replicas=replicas,
                max_ongoing_requests=MOST_WAITING,
                max_queued_requests=MOST_WAITING,
                graceful_shutdown_timeout_s=GOODBYE_SECONDS,
                graceful_shutdown_wait_loop_s=GOODBYE_SECONDS / 20,
                logging_config=LoggingConfig(enable_access_log=False),
            )(_Replica)
            serve.run(deployment.bind(address, new_items, trust), name=NAME)
            yield port
        finally:
            serve.shutdown()


def _listen_on_loopback() -> None:
    """Keeps this replica's port for other deployments, which Serve opens next, to where Ray listens.

    Serve opens it on all interfaces, even if Ray itself is on 127.0.0.1 only.
    """
    if ray.util.get_node_ip_address() == LOOPBACK:
        open_port = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: open_port(server, f"{LOOPBACK}:0")
