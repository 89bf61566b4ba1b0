"""TensorBoard events of a run, written epoch by epoch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class EventWriter:
    """Writes each epoch's figures; starts anew with the epochs there are already."""

    def __init__(self, folder: Path, epochs: list[dict[str, Any]]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for record in epochs:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        for name, value in _scalars(record):
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _scalars(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and key != "epoch":
            yield prefix + key, value
