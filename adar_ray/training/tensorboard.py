"""TensorBoard events of a run, written epoch by epoch."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from adar_ray.process import environment_kept
from adar_ray.training.records import EpochRecord

with environment_kept():  # its CRC library sets a variable
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar


class EventWriter:
    """Writes each epoch's figures. Replaces the folder's events with those of the epochs so far.

    Writes at once. tensorboardX's SummaryWriter passes events to a thread through a queue. An interrupt may
    leave the queue's lock held, and then closing the writer never returns.
    """

    def __init__(self, folder: Path, epochs: list[EpochRecord]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._writer = EventsWriter(str(folder / "events"))
        for record in epochs:
            self.write(record)

    def write(self, record: EpochRecord) -> None:
        for name, value in record.figures().items():
            # What TensorFlow does not allow tensorboardX would replace, too, and log a line about each.
            summary = scalar(re.sub(r"[^-/\w.]", "_", name), value)
            self._writer.write_event(Event(wall_time=time.time(), step=record.epoch, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
