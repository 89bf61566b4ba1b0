"""Where users live: lanes, which are ranges of user ids, dealt so that they have equally much to train.

A worker owns a range of lanes, and so a range of users. Files belong to groups of neighboring lanes.

Legend: U users, L lanes, a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adar_ray.data.split import hash_pairs

LANES = 64
_LARGEST = 1 << 24  # interactions of a lane


def lane_count(interactions: int) -> int:
    """The number of lanes: `LANES`, doubled until none has to hold more than `_LARGEST` interactions."""
    lanes = LANES
    while interactions > lanes * _LARGEST:
        lanes *= 2
    return lanes


def deal(count_U: np.ndarray, lanes: int) -> np.ndarray:
    """Deal users to lanes, `[U]`: the most active first, in rounds, the most active to the lightest lane.

    Lanes differ by at most 1 in users, and by at most the largest count in interactions. Neighbors make up
    for each other: the heaviest lane is beside the lightest, and so are halves, quarters and so on.

    Args:
        count_U: interactions of each user, none of them 0.
        lanes: how many there are.
    """
    by_count = np.argsort(-count_U, kind="stable")
    lane_U = np.empty(len(count_U), np.int32)
    load_L = np.zeros(lanes, np.int64)
    for start in range(0, len(by_count), lanes):
        dealt = by_count[start : start + lanes]
        lightest = np.argsort(load_L, kind="stable")[: len(dealt)]
        lane_U[dealt] = lightest
        load_L[lightest] += count_U[dealt]
    place_L = np.empty(lanes, np.int32)
    place_L[np.argsort(-load_L, kind="stable")[_bracket(lanes)]] = np.arange(lanes)
    return place_L[lane_U]


def _bracket(lanes: int) -> list[int]:
    """The order of a tournament's players, by rank: 0 meets the last, and their winner the one of 1 and 2."""
    ranks = [0]
    while len(ranks) < lanes:
        last = 2 * len(ranks) - 1
        ranks = [rank for winner in ranks for rank in (winner, last - winner)]
    return ranks


def lane_range(worker: int, workers: int, lanes: int) -> tuple[int, int]:
    """The first lane that one of several workers owns, and the one after its last."""
    return worker * lanes // workers, (worker + 1) * lanes // workers


def group_count(shards: int, lanes: int) -> int:
    """The number of groups of neighboring lanes that shards hold: the largest power of two that fits."""
    return 1 << (min(shards, lanes).bit_length() - 1)


@dataclass(frozen=True)
class Homes:
    """Where the users of a dataset live. Their ids are lane by lane.

    Shard s belongs to the group s % `groups`, and holds users of that group's lanes. If a group has several
    shards, a hash decides which of them a user is in.

    Attributes:
        bounds: lane l has the users from `bounds[l]` to before `bounds[l + 1]`, `[L + 1]`.
        shards: the number of shards.
    """

    bounds: np.ndarray
    shards: int

    @classmethod
    def of(cls, lane_U: np.ndarray, lanes: int, shards: int) -> Homes:
        """The homes of users that were dealt to these lanes."""
        return cls(np.concatenate([[0], np.cumsum(np.bincount(lane_U, minlength=lanes))]), shards)

    @property
    def lanes(self) -> int:
        return len(self.bounds) - 1

    @property
    def groups(self) -> int:
        return group_count(self.shards, self.lanes)

    def shard_of(self, user_U: np.ndarray) -> np.ndarray:
        """The shard of each user."""
        lane_U = np.searchsorted(self.bounds, user_U, side="right") - 1
        group_U = lane_U // (self.lanes // self.groups)
        shards_U = (self.shards - 1 - group_U) // self.groups + 1  # of the user's group
        nth_U = hash_pairs(user_U, 0, 0) % shards_U.astype(np.uint64)
        return (group_U + nth_U.astype(np.int64) * self.groups).astype(np.int32)

    def count(self, user_E: np.ndarray) -> np.ndarray:
        """The number of rows of each lane, `[L]`, among rows that are sorted by user."""
        return np.diff(np.searchsorted(user_E, self.bounds))
