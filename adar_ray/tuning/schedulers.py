"""What stops poor trials early: Ray Tune's schedulers, as a space names them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from adar_ray.tuning.folder import Trial
from adar_ray.tuning.spaces import Space

TIME = "epoch"


def build_scheduler(space: Space, epochs: int) -> TrialScheduler:
    """The scheduler of a search whose trials train for at most `epochs`."""
    scheduler = space.scheduler
    common = {"time_attr": TIME, "mode": space.mode}
    if scheduler.name == "asha":
        return AsyncHyperBandScheduler(
            metric="best",
            max_t=epochs,
            grace_period=min(scheduler.grace, epochs),
            reduction_factor=scheduler.reduction,
            stop_last_trials=False,  # the last epoch is an end, not a stop
            **common,
        )
    if scheduler.name == "hyperband":
        return HyperBandScheduler(
            metric="best",
            max_t=epochs,
            reduction_factor=scheduler.reduction,
            stop_last_trials=False,
            **common,
        )
    if scheduler.name == "median":
        return MedianStoppingRule(metric="best", grace_period=scheduler.grace, **common)
    if scheduler.name == "pbt":
        return _Population(
            metric="value",
            perturbation_interval=scheduler.interval,
            hyperparam_mutations={"values": space.mutations()},
            custom_explore_fn=lambda config: config | {"values": space.within(config["values"])},
            **common,
        )
    return FIFOScheduler()


class _Population(PopulationBasedTraining):
    """Ray's own, which refuses every search algorithm: here a study begins the trials of the population."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)


@dataclass(frozen=True)
class _Past:
    """All that asynchronous Hyperband asks of a trial: who it is."""

    trial_id: str


def tell_scheduler(scheduler: TrialScheduler, trial: Trial, mode: str) -> None:
    """Lets asynchronous Hyperband know a trial that ended before it was built; others begin anew."""
    if not isinstance(scheduler, AsyncHyperBandScheduler) or not trial.curve:
        return
    past: Any = _Past(f"before-{trial.name}")
    scheduler.on_trial_add(None, past)
    for result in results(trial.curve, mode):
        scheduler.on_trial_result(None, past, result)
    scheduler.on_trial_complete(None, past, result)


def results(curve: list[float], mode: str) -> list[dict[str, float]]:
    """What a trial has reported, epoch by epoch: `value`, and `best` so far, which patience makes final."""
    better = np.fmax if mode == "max" else np.fmin  # which pass over what is no number
    best = better.accumulate(curve).tolist()
    return [{TIME: n + 1, "value": curve[n], "best": best[n]} for n in range(len(curve))]
