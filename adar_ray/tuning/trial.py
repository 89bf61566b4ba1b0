"""A trial of a search, and which trial is best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
Mode = Literal["max", "min"]
Values = dict[str, bool | int | float | str]


class Trial(BaseModel):
    """What is known about a trial; `trial.json` holds it.

    It changes while the trial runs, and is written whenever its status or its parameters change.

    Attributes:
        values: of the space's parameters, by `section.key`; those that led to `value`.
        taken_over: what a population has replaced them with since; None if it has not.
        started: seconds that the search had taken before it.
        status: "stopped" is the work of the scheduler, or of a limit that ended the search.
        best_epoch: the epoch of `value`.
        value: the best value of the space's metric; None before the first epoch.
        seconds: from its start to its end, or to its last epoch.
        error: why it failed, or was interrupted, if it was the machine.
        curve: the metric after each epoch, once the trial has ended.
    """

    model_config = ConfigDict(extra="forbid")

    number: NonNegativeInt
    values: Values
    taken_over: Values | None = None
    started: float
    status: Status = "running"
    epochs: NonNegativeInt = 0
    best_epoch: PositiveInt | None = None
    value: float | None = None
    seconds: float = 0.0
    error: str | None = None
    curve: list[float] = []

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def has_ended(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    @property
    def value_or_nan(self) -> float:
        return math.nan if self.value is None else self.value

    @property
    def has_value(self) -> bool:
        """Whether there is a number to compare it by; a loss may have become NaN."""
        return math.isfinite(self.value_or_nan)

    @property
    def end(self) -> float:
        """Seconds that the search had taken when it ended."""
        return self.started + self.seconds

    @property
    def present_values(self) -> Values:
        """The parameters that it trains with."""
        return self.values if self.taken_over is None else self.taken_over

    def add_epoch(self, epoch: int, value: float, values: Values, mode: Mode) -> None:
        """Take in the value of an epoch, and the parameters that led to it."""
        self.epochs = epoch
        is_better = value > self.value_or_nan if mode == "max" else value < self.value_or_nan
        if self.best_epoch is None or is_better or (math.isnan(self.value_or_nan) and not math.isnan(value)):
            self.value, self.best_epoch, self.values = value, epoch, values
        self.taken_over = None if values == self.values else values

    def row(self) -> dict[str, Any]:
        """Its row of `trials.parquet`."""
        row = self.model_dump(exclude={"number", "values", "taken_over", "curve"})
        return {"trial": self.name, **row, **self.values}


def ranked(trials: Iterable[Trial], mode: Mode) -> list[Trial]:
    """The trials that have a value, best first; of equal ones the one that began first.

    A trial that failed is not among them, however good it was until then: it would fail again.
    """
    sign = -1 if mode == "max" else 1
    judged = [trial for trial in trials if trial.status != "failed" and trial.has_value]
    return sorted(judged, key=lambda trial: (sign * trial.value_or_nan, trial.number))


def best_of(trials: Iterable[Trial], mode: Mode) -> Trial | None:
    """The best trial; None if none has a value."""
    return next(iter(ranked(trials, mode)), None)
