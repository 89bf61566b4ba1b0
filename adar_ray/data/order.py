"""The order in which training visits its rows: one definition for every way of running.

A row is a user and an item, or a user and a sequence of items: `item` is `[E]` or `[E, N]` throughout.

An epoch visits the rows of each lane in a random order: the shards that hold the lane in a random order, and
its rows in a shard in a random order. Step t of S takes the t-th S-th part of every lane. So a batch has the
same rows for any number of workers, each of which owns some lanes, and all workers take the same number of
steps.

Legend: L lanes, M lanes of one worker, E rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from adar_ray.errors import AdarError

Rows = tuple[np.ndarray, np.ndarray]
"""Users and items of some rows."""
Chunks = Callable[[int], Iterable[Rows]]
"""An epoch -> the rows that a worker visits in it, as `arrange` puts them, in parts of every lane."""
_DISAGREE = "the dataset's shards and its dataset.json disagree"
_SHARDS, _ROWS = 0, 1  # keep the seeds of the two orders apart


class Batch(NamedTuple):
    """One worker's rows of a step.

    Attributes:
        user, item: the rows.
        first: the number of rows that workers before this one have in the same step.
        rows: the number of rows that all workers have.
    """

    user: np.ndarray
    item: np.ndarray
    first: int
    rows: int


def shard_order(shards: int, seed: int, epoch: int, group: int) -> np.ndarray:
    """Return the epoch's order of the shards of a group of lanes: a permutation of 0 to shards - 1."""
    return np.random.default_rng([_SHARDS, seed, epoch, group]).permutation(shards)


def arrange(
    user: np.ndarray, item: np.ndarray, bounds: np.ndarray, first_lane: int, seed: int, epoch: int, shard: int
) -> Rows:
    """Put the rows of a shard, which are sorted by user, in the epoch's order, one lane after the other.

    Args:
        bounds: lane `first_lane + i` has the users from `bounds[i]` to before `bounds[i + 1]`, `[M + 1]`.
        shard: number of the shard.
    """
    edges = np.searchsorted(user, bounds)
    lanes = range(first_lane, first_lane + len(bounds) - 1)
    order = [
        start + np.random.default_rng([_ROWS, seed, epoch, shard, lane]).permutation(end - start)
        for lane, start, end in zip(lanes, edges[:-1], edges[1:], strict=True)
        if end > start
    ]
    at = np.concatenate([np.empty(0, np.int64), *order])
    return user[at], item[at]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of steps that batches of at most about this size take."""
    return -(-rows // batch_size)


def rows_before(lane_rows: np.ndarray, step: int, steps: int) -> np.ndarray:
    """Count the rows of each lane, `[L]`, that an epoch visits before a step; before `steps` it is all."""
    # Lanes round at different steps, so that batches are equally large.
    return (step * lane_rows + np.arange(len(lane_rows)) * steps // len(lane_rows)) // steps


def batches(
    chunks: Iterable[Rows],
    bounds: np.ndarray,
    first_lane: int,
    lane_rows: np.ndarray,
    batch_size: int,
    done: int = 0,
    row_shape: tuple[int, ...] = (),
) -> Iterator[Batch]:
    """Cut the chunks of one worker into its rows of each step.

    Args:
        bounds: see `arrange`; those of the worker's lanes.
        lane_rows: rows of every lane, `[L]`.
        done: steps to pass over.
        row_shape: `()` for pairs, `(N,)` for sequences; of a batch in which the worker has no row, too.

    Raises:
        AdarError: the chunks have other numbers of rows.
    """
    chunks = iter(chunks)
    mine = slice(first_lane, first_lane + len(bounds) - 1)
    held = _Held.none(len(bounds) - 1, row_shape)
    steps = steps_per_epoch(int(lane_rows.sum()), batch_size)
    after = np.zeros_like(lane_rows)
    for step in range(steps):
        before, after = after, rows_before(lane_rows, step + 1, steps)
        count = after - before
        while (held.start + count[mine] > held.end).any():
            chunk = next(chunks, None)
            if chunk is None:
                raise AdarError(f"{_DISAGREE}: a lane has fewer rows than it should; prepare again")
            held = held.joined_by(chunk, bounds)
        user, item = held.take(count[mine])
        if step >= done:
            yield Batch(user, item, first=int(count[:first_lane].sum()), rows=int(count.sum()))
    if (held.start < held.end).any() or any(len(user) for user, _ in chunks):
        raise AdarError(f"{_DISAGREE}: a lane has more rows than it should; prepare again")


class _Held:
    """Rows in memory that no batch has taken yet: lane i has those from `start[i]` to before `end[i]`."""

    def __init__(self, rows: Rows, start: np.ndarray, end: np.ndarray) -> None:
        self.rows, self.start, self.end = rows, start, end

    @classmethod
    def none(cls, lanes: int, row_shape: tuple[int, ...]) -> _Held:
        nothing = np.zeros(lanes, np.int64)
        return cls((np.empty(0, np.int32), np.empty((0, *row_shape), np.int32)), nothing, nothing)

    def take(self, count: np.ndarray) -> Rows:
        """Take this many rows of each lane."""
        at = _ranges(self.start, count)
        self.start = self.start + count
        user, item = self.rows
        return user[at], item[at]

    def joined_by(self, chunk: Rows, bounds: np.ndarray) -> _Held:
        """Add a chunk: each lane's rows follow what is left of the lane."""
        lane = np.searchsorted(bounds, chunk[0], side="right") - 1
        new = np.bincount(lane, minlength=len(self.start))
        begin = np.cumsum(new) - new
        left = self.end - self.start
        if not left.any():
            return _Held(chunk, begin, begin + new)
        user, item = (np.concatenate(part) for part in zip(self.rows, chunk, strict=True))
        starts = np.stack([self.start, len(self.rows[0]) + begin], 1).ravel()
        at = _ranges(starts, np.stack([left, new], 1).ravel())
        end = np.cumsum(left + new)
        return _Held((user[at], item[at]), end - left - new, end)


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The numbers from each start, as many as its count."""
    return np.repeat(start - (np.cumsum(count) - count), count) + np.arange(count.sum())
