"""Paired tests, and their correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from adar_ray.significance import holm, paired_p


def test_the_paired_test_is_students_on_the_differences() -> None:
    one_U, other_U = np.array([0.4, 0.1, 0.7, 0.3]), np.array([0.1, 0.2, 0.3, 0.1])
    difference_U = one_U - other_U
    statistic = difference_U.mean() / (difference_U.std(ddof=1) / 2)  # the square root of four
    assert paired_p(one_U, other_U) == pytest.approx(2 * t.sf(statistic, df=3))
    assert paired_p(other_U, one_U) == pytest.approx(paired_p(one_U, other_U))


def test_users_without_a_number_in_either_do_not_count() -> None:
    one_U, other_U = np.array([0.4, 0.1, 0.7, 0.3]), np.array([0.1, 0.2, 0.3, 0.1])
    expected = paired_p(one_U, other_U)
    lacking = np.array([0.9, np.nan, np.nan]), np.array([np.nan, 0.9, np.nan])
    for one, other in (lacking, lacking[::-1]):
        assert paired_p(np.append(one_U, one), np.append(other_U, other)) == pytest.approx(expected)
    assert paired_p(one_U[:1], other_U[:1]) is None
    assert paired_p(np.append(one_U[:1], lacking[0]), np.append(other_U[:1], lacking[1])) is None


def test_systems_that_no_user_tells_apart_do_not_differ() -> None:
    assert paired_p(np.array([0.5, 0.0]), np.array([0.5, 0.0])) == 1
    figures_U = np.random.default_rng(0).random(2000)
    of_seeds_U = np.mean([figures_U] * 5, axis=0)
    assert not np.array_equal(of_seeds_U, figures_U)  # the mean of equal numbers, but for rounding
    assert paired_p(of_seeds_U, figures_U) == 1
    assert paired_p(figures_U + 1e-9, figures_U) < 0.001


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # https://en.wikipedia.org/wiki/Holm-Bonferroni_method: times 4, 3, 2 and 1, and never falling.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_corrects_for_the_number_of_tests(p_values: list[float], corrected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(corrected)


def test_holm_rejects_what_its_steps_down_reject() -> None:
    """At a level, from the smallest p on, until one is above its share."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        p_values = (generator.random(6) ** 3).tolist()
        rejected = set()
        for rank, at in enumerate(np.argsort(p_values)):
            if p_values[at] > 0.05 / (6 - rank):
                break
            rejected.add(int(at))
        assert {at for at, p in enumerate(holm(p_values)) if p <= 0.05} == rejected
