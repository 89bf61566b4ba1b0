"""Serves a model by Ray Serve, on this machine or on the cluster's head."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve._private import replica
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from adar_ray.errors import AdarError
from adar_ray.ray_address import ray_address
from adar_ray.ray_session import ray_session
from adar_ray.serving.app import make_app
from adar_ray.serving.served_model import ServedModel, check_model

NAME = "adar-ray"
LOOPBACK = "127.0.0.1"
GOODBYE_SECONDS = 2.0  # for requests in flight at the end
MOST_WAITING = 1_000  # requests, beyond which others are refused


@serve.ingress()
class _Replica:
    def __init__(self, address: str, trust: bool) -> None:
        _listen_on_loopback()
        self._model = ServedModel(address, trust=trust)
        self._model.follow()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._model)


@contextlib.contextmanager
def served(address: str, host: str, port: int, replicas: int = 1, *, trust: bool = False) -> Iterator[str]:
    """Serves a model until the block ends; yields the URL.

    Args:
        address: a run, a copy of its `model/`, or what `publish` fills. Another model that is put there
            takes its place.
        host: the address to listen on.
        replicas: processes that answer. Each holds the model, and takes a CPU.
        trust: whether custom components that the folder names may run.

    Raises:
        AdarError: there is no model, the port is taken, or Ray Serve runs already in this cluster.
    """
    check_model(address, trust=trust)
    if ray_address() is None:
        _check_free(host, port)
    with ray_session(replicas):
        if serve.status().proxies:
            raise AdarError("Ray Serve runs already in this Ray cluster; end it, or unset RAY_ADDRESS")
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
            serve.run(deployment.bind(address, trust), name=NAME)
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            serve.shutdown()


def _listen_on_loopback() -> None:
    """Keeps this replica's port for other deployments, which Serve opens next, to where Ray listens.

    Serve opens it on all interfaces, even if Ray itself is on 127.0.0.1 only.
    """
    if ray.util.get_node_ip_address() == LOOPBACK:
        open_port = replica.add_port_to_grpc_server
        replica.add_port_to_grpc_server = lambda server, address: open_port(server, f"{LOOPBACK}:0")


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        where = f"--host {host} --port {port}"
        raise AdarError(f"{where}: cannot listen there ({error.strerror}); give another") from error
