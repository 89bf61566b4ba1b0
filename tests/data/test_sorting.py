"""Radix sort and counts, against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest

from adar_ray.data.sorting import count_both, runs, stable_order


@pytest.mark.parametrize("low", [0, -7, 10**9, -(2**62)])
@pytest.mark.parametrize("span", [1, 2, 1 << 16, (1 << 16) + 1, 1 << 31, 1 << 33, 1 << 62])
def test_order(low: int, span: int) -> None:
    number_E = np.random.default_rng(span % 97).integers(low, low + span, 3000)
    assert np.array_equal(stable_order(number_E), np.argsort(number_E, kind="stable"))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_order_of_any_type(dtype: type) -> None:
    limits = np.iinfo(dtype)
    number_E = np.random.default_rng(0).integers(limits.min, limits.max, 1000, dtype, endpoint=True)
    number_E[:2] = limits.min, limits.max
    assert np.array_equal(stable_order(number_E), np.argsort(number_E, kind="stable"))


def test_nothing_to_sort() -> None:
    assert len(stable_order(np.array([], np.int32))) == 0
    assert stable_order(np.array([5, 5, 5])).tolist() == [0, 1, 2]


def test_runs() -> None:
    starts, lengths = runs(np.array([7, 7, 3, 9, 9, 9]))
    assert (starts.tolist(), lengths.tolist()) == ([0, 2, 3], [2, 1, 3])
    starts, lengths = runs(np.array([], np.int32))
    assert (starts.tolist(), lengths.tolist()) == ([], [])


def test_counts_of_users_and_items() -> None:
    users, items = count_both(np.array([0, 0, 4]), np.array([9, 2, 9]))
    assert (users.ids.tolist(), users.counts.tolist()) == ([0, 4], [2, 1])
    assert (items.ids.tolist(), items.counts.tolist()) == ([2, 9], [1, 2])
