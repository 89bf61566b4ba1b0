"""`published`: what `publish` has decided about a folder, for people and for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from adar_ray.cli.command import command
from adar_ray.cli.output import message, show
from adar_ray.errors import AdarError
from adar_ray.ray_address import LOOPBACK

if TYPE_CHECKING:
    from prometheus_client import Metric

    from adar_ray.training.published import Published


@command("published")
@click.argument("folder")
@click.option(
    "--listen",
    metavar="[HOST:]PORT",
    callback=lambda context, parameter, text: None if text is None else _host_and_port(text),
    help="Serve the times of the last night and of the published model to Prometheus, until stopped. Without "
    "a host, on this machine alone.",
)
def published_command(folder: str, listen: tuple[str, int] | None, as_json: bool) -> None:
    """Print what `publish` has decided about FOLDER, the newest last."""
    from adar_ray.training.published import Published

    published = Published.at(folder)
    if listen is not None:
        serve(published, *listen)
        return
    if not published.is_there():
        raise AdarError(f"{published.folder}: nothing is published there; give the --to of a publish")
    decisions = published.history()
    if as_json:
        show([decision.model_dump() for decision in decisions], True)
        return
    for decision in decisions:
        click.echo(f"{decision.time:%Y-%m-%d %H:%M}  {decision}  {decision.run}")


def serve(published: Published, host: str, port: int) -> None:
    """Serve the metrics of a folder until this process is stopped."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(Times(published))
    _, thread = start_http_server(port, host, registry)
    message(f"metrics of {published.folder} are at http://{host}:{port}/metrics")
    thread.join()


class Times:
    """Reads a folder whenever Prometheus asks."""

    def __init__(self, published: Published) -> None:
        self.published = published

    def describe(self) -> list[Metric]:
        """Nothing: the registry would otherwise read the folder before anybody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics; none before anything is published."""
        from prometheus_client.core import GaugeMetricFamily

        history, line = self.published.history(), self.published.line()
        nights = [decision.time for decision in history if decision.decision != "rolled back"]
        if nights:
            yield GaugeMetricFamily(
                "adar_ray_night_timestamp_seconds",
                "When a model was last offered, and published or not.",
                nights[-1].timestamp(),
            )
        if line:
            yield GaugeMetricFamily(
                "adar_ray_published_timestamp_seconds",
                "When the published model was published.",
                self.published.made(line[0]).time.timestamp(),
            )


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise click.BadParameter(f"{text!r} is not a port, such as 9101 or 0.0.0.0:9101")
    return host or LOOPBACK, int(port)
