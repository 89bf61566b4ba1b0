"""What an Optuna study is made of: one is asked for values and told what came of them."""

from __future__ import annotations

import numpy as np
import optuna

from adar_ray.tuning.space import SearchSettings
from adar_ray.tuning.trial import Mode


def build_study(mode: Mode) -> optuna.Study:
    """An empty study of a metric that is best at its `mode`; `build_sampler` makes what it samples with."""
    return optuna.create_study(direction="maximize" if mode == "max" else "minimize")


def build_sampler(search: SearchSettings, number: int) -> optuna.samplers.BaseSampler:
    """What proposes a trial. Its random numbers belong to the trial, however often the search was resumed."""
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if search.algorithm == "tpe":
        # Running trials count as poor ones, so that concurrent trials do not crowd in one place.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=8)
    return optuna.samplers.RandomSampler(seed=seed)  # a grid gets its points from outside
