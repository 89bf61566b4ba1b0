"""Distributions: what they draw, and what is refused."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from scipy import stats

from adar_ray.tuning.checks import check
from tests.tuning.spaces import draw, refusal, space


def test_every_distribution_keeps_to_its_range():
    drawn = draw(
        space(
            {
                "adar.beta": {"uniform": [0.5, 0.95]},
                "optimizer.lr": {"loguniform": [1e-4, 1e-2]},
                "sampled_softmax.temperature": {"quantized": [0.05, 0.5, 0.05]},
                "adar.negatives": {"integer": [1, 8]},
                "model.embedding_dim": {"integer": [2, 64], "log": True},
                "adar.candidates": {"choice": [1, 2, 4]},
                "model.cosine": {"choice": [True, False]},
            }
        ),
        200,
    )
    columns = {name: [values[name] for values in drawn] for name in drawn[0]}
    assert stats.kstest(columns["adar.beta"], stats.uniform(0.5, 0.45).cdf).pvalue > 0.01
    assert stats.kstest(columns["optimizer.lr"], stats.loguniform(1e-4, 1e-2).cdf).pvalue > 0.01
    steps = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]  # and not 0.15000000000000002
    assert sorted(set(columns["sampled_softmax.temperature"])) == steps
    assert set(columns["adar.negatives"]) == set(range(1, 9))
    assert all(
        isinstance(value, int) for name in ("adar.negatives", "adar.candidates") for value in columns[name]
    )
    assert set(columns["model.embedding_dim"]) <= set(range(2, 65))
    # Half of a logarithmic range lies below its geometric mean; a quarter of this one would, were it linear.
    below = sum(value < math.sqrt(1.5 * 64.5) for value in columns["model.embedding_dim"])
    assert 75 < below < 125
    assert set(columns["adar.candidates"]) == {1, 2, 4}
    assert Counter(map(type, columns["model.cosine"])) == {bool: 200}


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ({"unifrom": [0.5, 0.9]}, "did you mean uniform?"),
        ({}, "give one of uniform: [low, high]"),
        ({"uniform": [0.5, 0.9], "choice": [0.5]}, "give one of"),
        (0.5, "uniform"),
        ({"uniform": 0.5}, "list"),
        ({"uniform": [0.5]}, "uniform takes [low, high]"),
        ({"uniform": [0.5, 0.9, 0.1]}, "uniform takes [low, high]"),
        ({"quantized": [0.5, 0.9]}, "quantized takes [low, high, step]"),
        ({"uniform": [0.5, "much"]}, "'much'"),
        ({"uniform": [0.9, 0.5]}, "the range is empty"),
        ({"uniform": [0.5, 0.5]}, "the range is empty"),
        ({"uniform": [0.5, math.inf]}, "finite"),
        ({"uniform": [0.5, 1.5]}, "less than or equal to 1, not 1.5"),
        ({"uniform": [0, 0.5]}, "greater than 0, not 0.0"),
        ({"loguniform": [0, 0.5]}, "a logarithmic range must begin above 0"),
        ({"loguniform": [0.1, 3]}, "not 3.0"),
        ({"quantized": [0.5, 0.9, 0.3]}, "no whole number of steps of 0.3 leads from 0.5 to 0.9"),
        ({"quantized": [0.5, 0.9, 0]}, "no whole number of steps"),
        ({"quantized": [0.5, 0.9, -0.1]}, "no whole number of steps"),
        ({"quantized": [0.5, 1.1, 0.1]}, "not 1.1"),
        ({"quantized": [0.5, 0.9, 1e-300]}, "more than 10000 steps of 1E-300 lead from 0.5 to 0.9"),
        ({"quantized": [-1e300, 1e300, 1e-9]}, "more than 10000 steps"),
        ({"uniform": [0.5, 10**400]}, "uniform"),
        ({"integer": [1.5, 3]}, "integer"),
        ({"integer": [0, 1]}, "not 0"),
        ({"choice": []}, "at least one value"),
        ({"choice": [0.5, 0.5]}, "none twice"),
        ({"choice": ["auto", 0.5]}, "values of one kind: text, numbers, or true and false"),
        ({"choice": [True, 2]}, "values of one kind"),
        ({"choice": [0.5, 2]}, "not 2"),
        ({"choice": ["high"]}, "'high'"),
        ({"choice": [[0.5]]}, "a number, a word, true or false"),
        ({"choice": [None]}, "a number, a word, true or false"),
        ({"uniform": [0.5, 0.9], "log": True}, "loguniform"),
        ({"uniform": [0.5, 0.9], "when": "ahns"}, "when"),
    ],
)
def test_a_distribution_that_makes_no_sense(parameter, says):
    message = refusal(space, {"adar.beta": parameter})
    assert message.startswith("file: ")
    assert "parameters.adar.beta" in message
    assert says in message


@pytest.mark.parametrize(
    "parameter", [{"uniform": [8, 64]}, {"quantized": [8, 64, 0.5]}, {"loguniform": [8, 64]}]
)
def test_a_key_for_whole_numbers_wants_whole_numbers(parameter):
    assert "parameters.model.embedding_dim: give a whole number" in refusal(
        space, {"model.embedding_dim": parameter}
    )
    check(space({"model.embedding_dim": {"quantized": [8, 64, 8]}}))


def test_a_logarithmic_range_of_whole_numbers_begins_above_0():
    message = refusal(space, {"train.seed": {"integer": [0, 9], "log": True}})
    assert "parameters.train.seed: a logarithmic range must begin above 0" in message
