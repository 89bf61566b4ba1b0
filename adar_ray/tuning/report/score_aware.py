"""The score-aware functions that a search has tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from adar_ray.adar.sampler import AdarSettings
from adar_ray.adar.transition import score_aware_boundary
from adar_ray.config import Config
from adar_ray.tuning.report.contents import BEST
from adar_ray.tuning.trial import Mode, Trial, ranked

LARGEST_SCORE = 3.0  # where the axis of positive scores ends, in units of the mean positive score


def score_aware_lines(
    trials: Sequence[Trial], mode: Mode, fixed: Config, points: int = 61
) -> list[tuple[Trial, np.ndarray, np.ndarray]]:
    """The score-aware functions of the best trials: `(trial, r, z(r))`, best first.

    Scores are in units of the mean positive score. `fixed` gives what is not a parameter of a trial. Empty if
    no trial has a parameter of ADAR; trials with another sampler are left out.
    """
    if not any(name.startswith("adar.") for trial in trials for name in trial.values):
        return []
    r = torch.linspace(0, LARGEST_SCORE, points, dtype=torch.float64)
    lines: list[tuple[Trial, np.ndarray, np.ndarray]] = []
    for trial in ranked(trials, mode):
        if trial.values.get("sampler.name", fixed.sampler.name) == "adar" and len(lines) < BEST:
            settings = _adar_settings(trial, fixed)
            z = score_aware_boundary(r, settings.beta, settings.gamma, 1.0)
            lines.append((trial, r.numpy(), z.numpy()))
    return lines


def _adar_settings(trial: Trial, fixed: Config) -> AdarSettings:
    searched = {
        name.removeprefix("adar."): value for name, value in trial.values.items() if name.startswith("adar.")
    }
    return AdarSettings(**fixed.settings_of("adar").model_dump() | searched)
