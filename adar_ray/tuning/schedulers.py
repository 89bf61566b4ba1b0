"""What stops poor trials early: Ray Tune's schedulers, by the names that a space uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from adar_ray.tuning.population import Population, mutations, within
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import Mode, Trial

TIME = "epoch"


def build_scheduler(space: Space, epochs: int) -> TrialScheduler:
    """The scheduler of a search whose trials train for at most `epochs`."""
    settings = space.scheduler
    common: dict[str, Any] = {"time_attr": TIME, "mode": space.mode}
    if settings.name == "asha":
        return AsyncHyperBandScheduler(
            metric="best",
            max_t=epochs,
            grace_period=min(settings.grace, epochs),
            reduction_factor=settings.reduction,
            stop_last_trials=False,  # reaching the last epoch is no early stop
            **common,
        )
    if settings.name == "median":
        return MedianStoppingRule(metric="best", grace_period=min(settings.grace, epochs), **common)
    if settings.name == "pbt":
        return Population(
            metric="value",
            perturbation_interval=min(settings.interval, epochs),
            hyperparam_mutations={"values": mutations(space)},
            custom_explore_fn=lambda config: config | {"values": within(space, config["values"])},
            **common,
        )
    return FIFOScheduler()


@dataclass(frozen=True)
class _EarlierTrial:
    """All that asynchronous Hyperband asks of a trial: its id."""

    trial_id: str


def tell_scheduler(scheduler: TrialScheduler, trial: Trial, mode: Mode) -> None:
    """Tell asynchronous Hyperband about a trial that ended before the search resumed; others start afresh."""
    if not isinstance(scheduler, AsyncHyperBandScheduler) or not trial.curve:
        return
    earlier: Any = _EarlierTrial(f"before-{trial.name}")
    no_controller: Any = None
    reports = results(trial.curve, mode)
    scheduler.on_trial_add(no_controller, earlier)
    for result in reports:
        scheduler.on_trial_result(no_controller, earlier, result)
    scheduler.on_trial_complete(no_controller, earlier, reports[-1])


def results(curve: list[float], mode: Mode) -> list[dict[str, Any]]:
    """What a trial has reported after each epoch: `value`, and `best` so far, which is what a run keeps."""
    better = np.fmax if mode == "max" else np.fmin  # both ignore NaN
    best = better.accumulate(curve).tolist()
    return [{TIME: n + 1, "value": curve[n], "best": best[n]} for n in range(len(curve))]
