"""What stops poor trials early."""

from __future__ import annotations

import math

from adar_ray.tuning.schedulers import build_scheduler, results, tell_scheduler
from adar_ray.tuning.trial import Trial
from tests.tuning.spaces import space


def test_asha_that_was_told_of_good_trials_stops_a_poor_one() -> None:
    class Poor:
        trial_id = "poor"

    good = [
        Trial(number=n, values={}, started=0.0, status="finished", curve=[0.4, 0.5, 0.6, 0.7])
        for n in range(4)
    ]
    decisions = []
    for known in ([], good):
        scheduler = build_scheduler(space(scheduler={"name": "asha", "grace": 2, "reduction": 2}), 4)
        for trial in known:
            tell_scheduler(scheduler, trial, "max")
        scheduler.on_trial_add(None, Poor)
        decisions.append(
            [
                scheduler.on_trial_result(None, Poor, {"epoch": epoch, "value": 0.1, "best": 0.1})
                for epoch in (1, 2)
            ][-1]
        )
    assert decisions == [scheduler.CONTINUE, scheduler.STOP]


def test_an_epoch_without_a_number_is_passed_over() -> None:
    curve = [math.nan, 0.3, math.nan, 0.2]
    assert [result["best"] for result in results(curve, "max")][1:] == [0.3, 0.3, 0.3]
    assert [result["best"] for result in results(curve, "min")][1:] == [0.3, 0.3, 0.2]
