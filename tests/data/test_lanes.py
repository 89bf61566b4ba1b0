"""Lanes: balanced, the same for any number of workers, and in files that a worker can pick."""

from __future__ import annotations

import numpy as np
import pytest

from adar_ray.data.lanes import LANES, Homes, deal, group_count, lane_count, lane_range


@pytest.mark.parametrize(
    ("interactions", "lanes"),
    [(0, 64), (1 << 30, 64), ((1 << 30) + 1, 128), (1 << 31, 128), (10**10, 1024)],
)
def test_more_lanes_for_very_many_interactions(interactions: int, lanes: int) -> None:
    assert lane_count(interactions) == lanes


def test_dealing_by_hand() -> None:
    # Sorted: 9 8 7 6 | 5 4 3 2 | 1. The 5 goes to the lane with the 6, the 4 to that with the 7, and so on:
    # all come to 11, and the 1 goes to the first.
    assert deal(np.array([1, 9, 4, 5, 8, 7, 2, 3, 6]), 4).tolist() == [0, 0, 3, 1, 2, 3, 0, 2, 1]


def test_neighboring_lanes_make_up_for_each_other() -> None:
    # One user a lane: the heaviest lane beside the lightest.
    assert deal(np.array([80, 70, 60, 50, 40, 30, 20, 10]), 8).tolist() == [0, 4, 6, 2, 3, 7, 5, 1]


@pytest.mark.parametrize("users", [0, 1, 63, 64, 65, 1000, 20_000])
def test_lanes_have_equally_much(users: int) -> None:
    random = np.random.default_rng(users)
    count_U = np.ceil(random.lognormal(3, 1.5, users)).astype(np.int64)
    lane_U = deal(count_U, LANES)
    users_L = np.bincount(lane_U, minlength=LANES)
    rows_L = np.bincount(lane_U, count_U, minlength=LANES)
    assert np.ptp(users_L) <= 1
    assert np.ptp(rows_L) <= count_U.max(initial=0)
    for workers in (2, 4, 8) if users == 20_000 else ():
        rows_W = rows_L.reshape(workers, -1).sum(1)
        assert np.ptp(rows_W) <= count_U.max()


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
def test_workers_own_all_lanes(workers: int) -> None:
    ranges = [lane_range(worker, workers, 64) for worker in range(workers)]
    assert [lane for first, last in ranges for lane in range(first, last)] == list(range(64))
    assert np.ptp([last - first for first, last in ranges]) <= 1


def test_workers_own_parts_of_what_fewer_own() -> None:
    whole = lane_range(1, 2, 64)
    assert (lane_range(2, 4, 64)[0], lane_range(3, 4, 64)[1]) == whole


@pytest.mark.parametrize(("shards", "groups"), [(1, 1), (2, 2), (3, 2), (7, 4), (8, 8), (64, 64), (1000, 64)])
def test_groups(shards: int, groups: int) -> None:
    assert group_count(shards, 64) == groups


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8, 64, 100, 1000])
def test_homes(shards: int) -> None:
    random = np.random.default_rng(shards)
    lane_U = random.permutation(np.arange(20_000) % 37)  # lanes 37 to 63 are empty
    homes = Homes.of(lane_U, 64, shards)
    user_U = np.arange(20_000)
    found = np.sort(lane_U)
    for lane in (0, 1, 36, 37, 63):
        assert np.array_equal(user_U[found == lane], np.arange(*homes.bounds[lane : lane + 2]))
    shard_U = homes.shard_of(user_U)
    assert np.array_equal(shard_U % homes.groups, found * homes.groups // 64)
    used = [shard for shard in range(shards) if shard % homes.groups <= 36 * homes.groups // 64]
    assert np.unique(shard_U).tolist() == used
    # Within a group, shards have equally many users, but for chance.
    sizes = np.bincount(shard_U, minlength=shards)
    for group in np.unique(found * homes.groups // 64):
        own = sizes[group :: homes.groups]
        assert np.ptp(own) <= 8 * np.sqrt(own.mean())
    user_E = np.repeat(user_U, random.integers(0, 3, 20_000))
    assert homes.count(user_E).tolist() == np.bincount(found[user_E], minlength=64).tolist()
