"""What the trials of a search say.

A trial is a dict: `trial` (its id), `status` ("finished", "stopped", "failed" or "interrupted"), `epochs`,
`best_epoch`, `value` (its best validation value or None), `seconds`, `started` (seconds since the search
began), `error`, and one key a parameter, named `section.key`, with None where a condition left it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adar_ray.config import Config
from adar_ray.reporting.formatting import in_words

Trial = dict[str, Any]
BEST = 10  # trials that are listed and drawn strong
LOG_SPAN = 30  # a parameter that spans more than this factor gets a logarithmic axis
_INFINITE = 1e100  # margins of much larger numbers overflow


@dataclass(frozen=True)
class Search:
    """A search as `search_report` is given it, and what several sections need of it."""

    metric: str
    mode: str
    trials: list[Trial]
    curves: dict[str, list[float]]
    fixed: Config
    ranked: list[Trial]
    parameters: list[str]


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """The trials that have a value, best first, of equal ones the earlier first.

    A trial that failed is not among them, however good it was until then: nobody can run it again to its end.
    """
    if mode not in ("max", "min"):
        raise ValueError(f"mode is max or min, not {mode!r}")
    sign = -1 if mode == "max" else 1
    judged = [trial for trial in trials if value_of(trial) is not None and trial.get("status") != "failed"]
    return sorted(judged, key=lambda trial: sign * value_of(trial))


def best_so_far(trials: Sequence[Trial], mode: str) -> list[tuple[float, float]]:
    """Pairs of a time and the best value there was then, one for each time at which a ranked trial ended."""
    better = max if mode == "max" else min
    steps: list[tuple[float, float]] = []
    for end, value in sorted((end_of(trial), value_of(trial)) for trial in ranked(trials, mode)):
        best = better(value, steps[-1][1]) if steps else value
        if steps and steps[-1][0] == end:
            steps.pop()
        steps.append((end, best))
    return steps


def finite(value: Any) -> float | None:
    """`value` as a finite number that can be drawn, or None."""
    if value is None or isinstance(value, (bool, np.bool_, str)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < _INFINITE else None


def value_of(trial: Trial) -> float | None:
    return finite(trial.get("value"))


def end_of(trial: Trial) -> float:
    return (finite(trial.get("started")) or 0.0) + (finite(trial.get("seconds")) or 0.0)


def parameters_of(trials: Iterable[Trial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial if "." in name))


def column_of(trials: Iterable[Trial], name: str) -> tuple[list[tuple[Trial, Any]], bool]:
    """The trials that have a parameter, each with its value; and whether the values are numbers or words."""
    given = [(trial, trial[name]) for trial in trials if trial.get(name) is not None]
    if any(isinstance(value, (bool, np.bool_, str)) for _, value in given):
        return [(trial, in_words(value)) for trial, value in given], False
    numbers = [(trial, finite(value)) for trial, value in given]
    return [(trial, number) for trial, number in numbers if number is not None], True


def is_wide(numbers: Sequence[float]) -> bool:
    """Whether numbers are better shown and compared by their logarithms."""
    return min(numbers) > 0 and max(numbers) > LOG_SPAN * min(numbers)
