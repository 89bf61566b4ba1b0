"""Population-based training: what it may search, and how its values change."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from scipy import stats

from adar_ray.tuning.population import IS_LAST, Population, mutations, within
from tests.tuning.spaces import refusal, space

MUTABLE = {
    "adar.beta": {"uniform": [0.5, 0.95]},
    "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
    "sampled_softmax.temperature": {"quantized": [0.1, 0.4, 0.1]},
    "adar.negatives": {"integer": [1, 4]},
    "adar.pool": {"integer": [16, 512], "log": True},
    "adar.candidates": {"choice": [1, 4, 16]},
}
BOUNDS = {"adar.beta": (0.5, 0.95), "optimizer.lr": (1e-4, 1e-2), "adar.pool": (16, 512)}


@pytest.mark.parametrize("name", ["model.embedding_dim", "sasrec.layers", "sasrec.heads", "srns.memory"])
def test_a_population_keeps_its_weights(name):
    message = refusal(space, {name: {"choice": [1, 2]}}, scheduler={"name": "pbt"})
    assert message.startswith(f"file: parameters.{name}: ")
    assert "pbt" in message


def test_a_population_has_no_conditions():
    parameters = {
        "adar.negatives": {"choice": [1, 2]},
        "adar.beta": {"uniform": [0.5, 0.9], "when": {"adar.negatives": 1}},
    }
    assert "parameters.adar.beta: has a condition" in refusal(space, parameters, scheduler={"name": "pbt"})


def test_nobody_takes_over_a_trial_that_has_ended(monkeypatch):
    from ray.tune.schedulers import PopulationBasedTraining

    taken = []
    monkeypatch.setattr(PopulationBasedTraining, "_exploit", lambda *arguments: taken.append(arguments[2:]))
    population = Population(metric="value", mode="max", hyperparam_mutations={"values": {"a": [1, 2]}})
    results = {"goes on": {IS_LAST: False}, "has ended": {IS_LAST: True}}
    population._trial_state = {name: SimpleNamespace(last_result=last) for name, last in results.items()}
    for other in results:
        population._exploit(None, "poor", other)
    assert taken == [("poor", "goes on")]


def test_mutations_are_lists_of_steps_and_ranges():
    from ray.tune.search.sample import Float, Integer

    changes = mutations(space(MUTABLE, scheduler={"name": "pbt"}))
    assert {name: of for name, of in changes.items() if isinstance(of, list)} == {
        "sampled_softmax.temperature": [0.1, 0.2, 0.3, 0.4],
        "adar.negatives": [1, 2, 3, 4],
        "adar.candidates": [1, 4, 16],
    }
    for name, kind in (("adar.beta", Float), ("optimizer.lr", Float), ("adar.pool", Integer)):
        low, high = BOUNDS[name]
        assert isinstance(changes[name], kind)
        assert all(low <= changes[name].sample() <= high for _ in range(50))
    lr = [changes["optimizer.lr"].sample() for _ in range(300)]
    assert stats.kstest(lr, stats.loguniform(1e-4, 1e-2).cdf).pvalue > 1e-4


def test_what_a_population_makes_of_values_is_moved_back_into_range():
    """Ray Tune multiplies by 0.8 or 1.2 and knows no bounds."""
    from ray.tune.schedulers.pbt import _explore

    a_space = space(MUTABLE, scheduler={"name": "pbt"})
    values = {
        "adar.beta": 0.9,
        "optimizer.lr": 1e-2,
        "sampled_softmax.temperature": 0.4,
        "adar.negatives": 4,
        "adar.candidates": 16,
    }
    values["adar.pool"] = 500
    left = 0
    for _ in range(50):
        explored = _explore(values, mutations(a_space), 0.1, (0.8, 1.2), None)[0]
        moved = within(a_space, explored)
        left += moved != explored
        assert all(low <= moved[name] <= high for name, (low, high) in BOUNDS.items())
        assert all(
            type(moved[name]) is type(explored[name]) for name in ("adar.negatives", "adar.candidates")
        )
        a_space.config(moved)
    assert left
