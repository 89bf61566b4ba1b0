"""When workers save within an epoch, and when they stop: after the same step on all of them."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

import torch

from adar_ray.config import CheckpointsConfig
from adar_ray.training.worker import Worker

ASK_SECONDS = 1.0


class Call(enum.IntEnum):
    """What all workers do after a step."""

    GO_ON = 0
    SAVE = 1
    STOP = 2
    """Save, and stop."""


class Calls:
    """Asks all workers about once a second what to do; a worker that is alone asks itself after each step.

    Args:
        should_stop: whether this worker should stop. If one should, all do.
    """

    def __init__(self, config: CheckpointsConfig, worker: Worker, should_stop: Callable[[], bool]) -> None:
        self._config, self._worker, self._should_stop = config, worker, should_stop
        self._saved = self._asked = time.monotonic()
        self._left = self._interval = 1  # steps until the workers ask each other, and between two questions

    def saved(self) -> None:
        """Tells that a checkpoint has just been begun."""
        self._saved = time.monotonic()

    def after(self, step: int) -> Call:
        """What to do after this many steps of the epoch."""
        is_its_turn = self._config.steps and step % self._config.steps == 0
        wanted = Call.SAVE if is_its_turn else Call.GO_ON
        if self._worker.size == 1:
            return max(wanted, self._own_wish())
        self._left -= 1
        return max(wanted, self._wish_of_all()) if self._left == 0 else wanted

    def _own_wish(self) -> Call:
        if self._should_stop():
            return Call.STOP
        minutes = (time.monotonic() - self._saved) / 60
        return Call.SAVE if 0 < self._config.minutes <= minutes else Call.GO_ON

    def _wish_of_all(self) -> Call:
        """That of worker 0, whose clock counts, unless another one should stop."""
        now = time.monotonic()
        steps_a_second = self._interval / max(now - self._asked, 1e-6)
        self._asked = now
        wish, is_first = self._own_wish(), self._worker.rank == 0
        asked = [wish == Call.STOP, is_first * (wish == Call.SAVE), is_first * steps_a_second * ASK_SECONDS]
        stops, saves, steps = self._worker.all_reduce(torch.tensor(asked, dtype=torch.float64)).tolist()
        self._left = self._interval = max(1, int(steps))
        return Call.STOP if stops else Call.SAVE if saves else Call.GO_ON
