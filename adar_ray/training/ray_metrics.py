"""A run's figures as Ray's metrics, which Prometheus reads from the node of worker 0."""

from __future__ import annotations

from urllib.parse import quote

from ray.util.metrics import Gauge

from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from adar_ray.training.trackers import address_of


class RunGauges:
    """The gauges of a run, tagged with its address. Prometheus sees their names with `ray_` before them."""

    def __init__(self, run: Run) -> None:
        self._tags = {"run": _ascii(address_of(run.folder))}
        self._epoch = Gauge("adar_epoch", "Epochs trained, the one under way in part.", ("run",))
        self._loss = Gauge("adar_loss", "Mean loss per row in the last epoch.", ("run",))
        self._valid = Gauge("adar_valid", "Validation metrics after the last epoch.", ("run", "metric"))
        self._speed = Gauge(
            "adar_interactions_per_second", "Interactions trained per second in the last epoch.", ("run",)
        )

    def on_step(self, epoch: int, step: int, steps: int) -> None:
        self._epoch.set(epoch - 1 + step / steps, self._tags)

    def on_epoch(self, record: EpochRecord) -> None:
        self._epoch.set(record.epoch, self._tags)
        self._speed.set(record.time.interactions_per_second, self._tags)
        for metric, value in (record.valid or {}).items():
            self._valid.set(value, {**self._tags, "metric": _ascii(metric)})
        self._loss.set(record.loss, self._tags)


def _ascii(text: str) -> str:
    """Ray refuses tags of other letters; they are written as in URLs."""
    return "".join(letter if letter.isascii() else quote(letter) for letter in text)
