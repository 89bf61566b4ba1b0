"""What the sections of a report draw on: the trials, their ranking, and their parameters as columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adar_ray.config import Config
from adar_ray.reporting.formatting import as_text, escaped, score
from adar_ray.tuning.trial import Mode, Trial, ranked

BEST = 10  # trials that are listed and drawn with strong lines
LOG_SPAN = 30  # a parameter that spans more than this factor gets a logarithmic axis

Column = list[tuple[Trial, Any]]  # trials that have a parameter, each with its value


@dataclass(frozen=True)
class Contents:
    """A search as its report shows it; for the arguments see `search_report`."""

    metric: str
    mode: Mode
    trials: Sequence[Trial]
    fixed: Config

    @cached_property
    def ranked(self) -> list[Trial]:
        return ranked(self.trials, self.mode)

    @cached_property
    def parameters(self) -> list[str]:
        return parameters_of(self.trials)

    @property
    def axis(self) -> str:
        """The title of an axis of values."""
        return f"validation {escaped(self.metric, 30)}"

    def says(self, trial: Trial, value: float | None = None) -> str:
        """A trial and its value, or that of an epoch, for who points at it in a figure."""
        value = trial.value_or_nan if value is None else value
        return f"trial {trial.name}: {escaped(self.metric, 30)} {score(value)}"


def best_so_far(trials: Sequence[Trial], mode: Mode) -> list[tuple[float, float]]:
    """Pairs of a time and the best value until then, one for each time at which a ranked trial ended."""
    better = max if mode == "max" else min
    steps: list[tuple[float, float]] = []
    for end, value in sorted((trial.end, trial.value_or_nan) for trial in ranked(trials, mode)):
        best = better(value, steps[-1][1]) if steps else value
        if steps and steps[-1][0] == end:
            steps.pop()
        steps.append((end, best))
    return steps


def parameters_of(trials: Iterable[Trial]) -> list[str]:
    """The parameters that trials have, in the order in which they first appear."""
    return list(dict.fromkeys(name for trial in trials for name in trial.values))


def column_of(trials: Iterable[Trial], name: str) -> tuple[Column, bool]:
    """A parameter's values, and whether they are numbers; if not, they are texts."""
    given: Column = [(trial, trial.values[name]) for trial in trials if name in trial.values]
    if any(isinstance(value, bool | str) for _, value in given):
        return [(trial, as_text(value)) for trial, value in given], False
    return given, True


def is_wide(numbers: Sequence[float]) -> bool:
    """Whether numbers are better shown and compared by their logarithms."""
    return min(numbers) > 0 and max(numbers) > LOG_SPAN * min(numbers)
