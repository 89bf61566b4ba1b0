"""The score-aware functions that a search has tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import ValidationError

from adar_ray.adar.sampler import AdarSettings
from adar_ray.adar.transition import score_aware_boundary
from adar_ray.config import Config
from adar_ray.reporting.trials import BEST, Trial, finite, ranked

LARGEST_SCORE = 3.0  # of the score-aware functions' axis, in units of the mean positive score


def score_aware_lines(
    trials: Sequence[Trial], mode: str, fixed: Config | None = None, points: int = 301
) -> list[tuple[Trial, np.ndarray, np.ndarray]]:
    """The score-aware functions of the best trials: `(trial, r, z(r))`, best first.

    Scores are in units of the mean positive score. What a trial has no parameter for is as in `fixed`, which
    is None for the defaults. Empty where no trial has a parameter of ADAR; trials with another sampler are
    passed over.
    """
    if not any(
        name.startswith("adar.") and value is not None for trial in trials for name, value in trial.items()
    ):
        return []
    r = torch.linspace(0, LARGEST_SCORE, points, dtype=torch.float64)
    lines = []
    for trial in ranked(trials, mode):
        settings = _adar_settings(trial, fixed or Config())
        if settings is not None and len(lines) < BEST:
            z = score_aware_boundary(r, settings.beta, settings.gamma, 1.0)
            lines.append((trial, r.numpy(), z.numpy()))
    return lines


def _adar_settings(trial: Trial, fixed: Config) -> AdarSettings | None:
    """The trial's beta and gamma, or None where it had another sampler, or values with which nothing runs."""
    if (trial.get("sampler.name") or fixed.sampler.name) != "adar":
        return None
    given = {key: finite(trial.get(f"adar.{key}")) for key in ("beta", "gamma")}
    given = {key: value for key, value in given.items() if value is not None}
    try:
        return AdarSettings(**fixed.adar.model_dump() | given)
    except ValidationError:
        return None
