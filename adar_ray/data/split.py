"""Assign interactions to training, validation and test.

Everything here works on one shard, which holds all interactions of its users. Rows are sorted by user, and
by time within a user.

Legend: E rows of the shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from adar_ray.data.manifest import SPLITS, Protocol, SplitRecord
from adar_ray.data.sorting import runs, stable_order

TRAIN, VALID, TEST = range(len(SPLITS))
LEAVE_ONE_OUT_MINIMUM = 3
Histogram = Callable[[list[int]], "Sequence[int] | np.ndarray"]
"""Maps edges in time to the number of rows at or after each edge."""


class SplitProtocol(BaseModel):
    """How to split. Validation is always taken from what would otherwise be training.

    `leave-one-out`: each user's last interaction goes to test, the one before it to validation; users with
    fewer than `LEAVE_ONE_OUT_MINIMUM` interactions keep them all in training, as in SASRec (ICDM 2018).
    `ratio`: a random share of each user's interactions. `temporal`: one cut in time for all users;
    interactions at the exact moment of the cut come after it. `given`: as the source says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol
    test_fraction: float = Field(0.2, gt=0, lt=1)
    valid_fraction: float = Field(0.1, ge=0, lt=1)
    seed: int = 0

    def record(self) -> SplitRecord:
        """The protocol with the settings that it uses, for the manifest."""
        used: dict[Protocol, set[str]] = {
            "leave-one-out": set(),
            "ratio": {"test_fraction", "valid_fraction", "seed"},
            "temporal": {"test_fraction", "valid_fraction"},
            "given": {"valid_fraction", "seed"},
        }
        return SplitRecord(protocol=self.protocol, **self.model_dump(include=used[self.protocol]))


def assign(
    split: SplitProtocol,
    user_E: np.ndarray,
    item_E: np.ndarray,
    timestamp_E: np.ndarray,
    given_E: np.ndarray,
    cuts: tuple[int, int] | None,
) -> np.ndarray:
    """Assign each row to TRAIN, VALID or TEST, `[E]`.

    Args:
        split: the protocol.
        user_E, item_E, timestamp_E: the rows.
        given_E: the source's own split; for `given`.
        cuts: the first moments of validation and of test; needed for `temporal`.
    """
    result = np.full(len(user_E), TRAIN, dtype=np.int8)
    if split.protocol == "leave-one-out":
        start_U, count_U = runs(user_E)
        last_U = (start_U + count_U - 1)[count_U >= LEAVE_ONE_OUT_MINIMUM]
        result[last_U - 1] = VALID
        result[last_U] = TEST
    elif split.protocol == "temporal":
        assert cuts is not None
        result[timestamp_E >= cuts[0]] = VALID
        result[timestamp_E >= cuts[1]] = TEST
    elif split.protocol == "ratio":
        result[_random_share(user_E, item_E, split.test_fraction, split.seed)] = TEST
        _carve_validation(result, split, user_E, item_E)
    else:
        result[:] = given_E
        _carve_validation(result, split, user_E, item_E)
    return result


def temporal_cuts(
    histogram: Histogram, rows: int, low: int, high: int, split: SplitProtocol
) -> tuple[int, int]:
    """Find the first moments of validation and of test, by bisection over time.

    Args:
        histogram: counts the rows at or after each of some edges.
        rows: the total number of rows.
        low, high: first and last moment.
        split: the shares of test and validation.
    """
    test = _first_moment(histogram, split.test_fraction * rows, low, high)
    (in_test,) = histogram([test])
    valid = _first_moment(histogram, in_test + split.valid_fraction * (rows - in_test), low, high)
    return valid, test


def _first_moment(histogram: Histogram, wanted: float, low: int, high: int) -> int:
    """The earliest moment with at most `wanted` rows at or after it."""
    low, high = int(low), int(high) + 1  # there are no rows from `high` on
    while low < high:
        # Integers, because floating point cannot tell neighboring nanoseconds apart.
        edges = sorted({low + (high - low) * part // 65 for part in range(65)})
        few = np.asarray(histogram(edges)) <= wanted
        if few.any():
            first = int(few.argmax())
            high = edges[first]
            low = edges[first - 1] + 1 if first else high
        else:
            low = edges[-1] + 1
    return low


def _random_share(user_E: np.ndarray, item_E: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose a share of each user's rows, rounded, but never all of them.

    A hash of user and item decides, so the choice depends on nothing but the pair and the seed. Of the
    repeats of a pair the earliest go first.
    """
    key = hash_pairs(user_E, item_E, seed)
    by_key = np.argsort(key, kind="stable")
    order = by_key[stable_order(user_E[by_key])]
    start_U, count_U = runs(user_E)
    wanted_U = np.minimum(np.floor(count_U * fraction + 0.5), count_U - 1)
    position_E = np.arange(len(user_E)) - np.repeat(start_U, count_U)
    chosen = np.zeros(len(user_E), dtype=bool)
    chosen[order[position_E < np.repeat(wanted_U, count_U)]] = True
    return chosen


def _carve_validation(
    result: np.ndarray, split: SplitProtocol, user_E: np.ndarray, item_E: np.ndarray
) -> None:
    train = np.flatnonzero(result == TRAIN)
    # Use another seed, because the pairs with the smallest hashes under the first one went to test.
    chosen = _random_share(user_E[train], item_E[train], split.valid_fraction, split.seed + 1)
    result[train[chosen]] = VALID


def hash_pairs(a: np.ndarray, b: np.ndarray | int, seed: int) -> np.ndarray:
    """Hash each pair to a uniform 64-bit number: SplitMix64 over the seed and both."""
    with np.errstate(over="ignore"):
        state = _splitmix64(np.full(len(a), seed, dtype=np.uint64))
        state = _splitmix64(state ^ np.asarray(a).astype(np.uint64))
        return _splitmix64(state ^ np.asarray(b).astype(np.uint64))


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
