"""`serve`: a trained model behind HTTP."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import click

from adar_ray.cli.command import command, new_items_option, trust_option
from adar_ray.cli.output import message, show
from adar_ray.errors import AdarError
from adar_ray.limits import MOST_WORKERS
from adar_ray.ray_address import LOOPBACK


@command("serve")
@click.argument("address")
@new_items_option
@trust_option("ADDRESS")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Port; 0: any that is free.",
)
@click.option(
    "--replicas",
    type=click.IntRange(0, MOST_WORKERS),
    default=0,
    show_default=True,
    help="Processes of Ray Serve that answer, each with the model and a CPU; 0: this process, without Ray.",
)
def serve_command(
    address: str, new_items: str | None, trust: bool, host: str, port: int, replicas: int, as_json: bool
) -> None:
    """Answer HTTP requests by the model at ADDRESS, until Ctrl-C.

    ADDRESS is a finished run, a copy of its model/, or the folder that `publish` fills.

    POST /recommend, GET /similar, GET /health, and GET /openapi.json, which describes them. When another
    model is put at ADDRESS, it takes over. Whoever reaches the port may ask: nobody has to log in.
    """
    try:
        from adar_ray.serving.server import served
    except ImportError as error:
        raise AdarError(f"{error.name}: is not installed; pip install 'adar-ray[serve]'") from error
    with served(address, host, port, replicas, new_items=new_items, trust=trust) as url:
        show({"url": url}, as_json)
        message("Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    # Python's own exit takes several times as long as all of the above. Nothing is left to clean up, and a
    # thread that still computes an answer, which nobody waits for, could not be stopped.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
