"""The learning rate over the course of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

from adar_ray.config import OptimizerConfig

_FALLS: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of step `step` of `steps`, counted from 0.

    In equal parts it rises to `config.lr`, which it reaches with the last step of the warm-up. From the step
    after that it falls as the schedule says, and would be 0 at the step after the last.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * _FALLS[config.schedule]((step - warmup) / (steps - warmup))
