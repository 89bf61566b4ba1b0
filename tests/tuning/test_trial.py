"""Trials, and which of them is best."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from adar_ray.tuning.trial import Trial, best_of, ranked


def test_the_best_trial_is_the_first_of_equals_and_never_one_that_failed() -> None:
    trials = [
        Trial(number=0, values={}, started=0.0, status="finished", value=0.1),
        Trial(number=1, values={}, started=0.0, status="stopped", value=0.3),
        Trial(number=2, values={}, started=0.0, status="finished", value=0.3),
        Trial(number=3, values={}, started=0.0, status="failed", value=0.9),
        Trial(number=4, values={}, started=0.0, status="running"),
        Trial(number=5, values={}, started=0.0, status="finished", value=math.nan),
    ]
    for some in (trials, trials[::-1]):  # a comparison with NaN is False, whichever comes first
        assert best_of(some, "max") is trials[1]
        assert best_of(some, "min") is trials[0]
    assert best_of(trials[4:], "max") is None


def test_trials_are_ranked_by_mode_and_equal_ones_by_number() -> None:
    values = [0.3, None, math.nan, 0.5, 0.5, math.inf, 0.1]
    trials = [
        Trial(number=n, values={}, started=0.0, status="stopped", value=value)
        for n, value in enumerate(values)
    ]
    trials.append(Trial(number=7, values={}, started=0.0, status="failed", value=0.9))
    assert [trial.number for trial in ranked(trials, "max")] == [3, 4, 0, 6]
    assert [trial.number for trial in ranked(trials[::-1], "min")] == [6, 0, 3, 4]


def test_a_trial_has_no_other_fields() -> None:
    with pytest.raises(ValidationError):
        Trial.model_validate({"number": 0, "values": {}, "started": 0.0, "rank": 1})
    with pytest.raises(ValidationError):
        Trial.model_validate({"number": 0, "values": {}, "started": 0.0, "status": "odd"})


def test_a_value_that_is_not_a_number_survives_json() -> None:
    trial = Trial(number=0, values={}, started=0.0, value=math.nan, curve=[0.5, math.nan])
    again = Trial.model_validate(json.loads(json.dumps(trial.model_dump())))
    assert math.isnan(again.value)
    assert not again.has_value
    assert math.isnan(again.curve[1])


def test_a_value_goes_with_the_parameters_that_led_to_it() -> None:
    """A population replaces a trial's parameters as it trains."""
    trial, old, new = Trial(number=0, values={"x": 0.9}, started=0.0), {"x": 0.9}, {"x": 0.5}
    for epoch, value in enumerate([math.nan, 0.5, 0.3, 0.5], start=1):
        trial.add_epoch(epoch, value, old, "max")
        assert trial.present_values == trial.values == old
    assert (trial.value, trial.best_epoch, trial.epochs) == (0.5, 2, 4)
    trial.add_epoch(5, 0.4, new, "max")
    assert (trial.value, trial.best_epoch, trial.values, trial.present_values) == (0.5, 2, old, new)
    assert trial.row()["x"] == 0.9
    trial.add_epoch(6, 0.6, new, "max")
    assert (trial.value, trial.best_epoch, trial.values, trial.taken_over) == (0.6, 6, new, None)
    trial.add_epoch(7, 0.1, old, "min")
    assert (trial.value, trial.values) == (0.1, old)
