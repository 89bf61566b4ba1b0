"""The order in which training visits its rows: one definition for every way of running.

A row is a user and an item, or a user and a sequence of items: `item` is `[E]` or `[E, N]` throughout.

An epoch visits the shards in a random order, and the rows of each shard in a random order. The rows fill
slots. A shard's slots are padded to a multiple of `LANES`, and worker w of n takes every n-th slot,
starting with w. So a batch has the same rows for any number of workers that divides `LANES`, and all
workers take the same number of steps.

A shard holds all rows of randomly chosen users, so its rows are a fair sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from adar_ray.interactions import PADDING

LANES = 64
Rows = tuple[np.ndarray, np.ndarray]
"""Users and items of some rows."""
ReadShard = Callable[[int], Rows]
Count = TypeVar("Count", int, np.ndarray)
_SHARDS, _ROWS = 0, 1  # keep the seeds of the two orders apart


def shard_order(shards: int, seed: int, epoch: int) -> np.ndarray:
    """Return the epoch's order of shards: a permutation of 0 to shards - 1."""
    return np.random.default_rng([_SHARDS, seed, epoch]).permutation(shards)


def padded_rows(rows: Count, workers: int) -> Count:
    """Return the number of slots that shards with these numbers of rows take up."""
    multiple = math.lcm(LANES, workers)
    return -(-rows // multiple) * multiple


def stripe(
    user: np.ndarray, item: np.ndarray, seed: int, epoch: int, shard: int, worker: int, workers: int
) -> Rows:
    """Return one worker's share of a shard in an epoch: int32 users and items, `PADDING` in empty slots."""
    order = np.random.default_rng([_ROWS, seed, epoch, shard]).permutation(len(user))
    slots = np.full(padded_rows(len(user), workers), PADDING, dtype=np.int64)
    slots[: len(order)] = order
    mine = slots[worker::workers]

    def take(column: np.ndarray) -> np.ndarray:
        values = column[mine].astype(np.int32, copy=False)
        values[mine == PADDING] = PADDING
        return values

    return take(user), take(item)


def rows_per_batch(
    shard_rows: np.ndarray, batch_size: int, seed: int, epoch: int, workers: int
) -> np.ndarray:
    """Count the rows in each batch of the epoch over all workers: its slots without the empty ones."""
    rows = np.asarray(shard_rows)[shard_order(len(shard_rows), seed, epoch)]
    slots = padded_rows(rows, workers)
    # The number of rows before a slot rises by one per slot over a shard's rows and is flat over its padding.
    starts = np.concatenate([[0], np.cumsum(slots)])
    corners = np.stack([starts[:-1], starts[:-1] + rows], 1).ravel()
    before = np.repeat(np.concatenate([[0], np.cumsum(rows)]), 2)[1:-1]
    edges = np.append(np.arange(0, starts[-1], batch_size), starts[-1])
    return np.diff(np.interp(edges, corners, before).round().astype(np.int64))


def batches(stripes: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Cut a stream of stripes into batches of `size` slots; the last may be smaller."""
    left: list[Rows] = []
    held = 0
    for user, item in stripes:
        left.append((user, item))
        held += len(user)
        if held < size:
            continue
        users, items = (np.concatenate(part) for part in zip(*left, strict=True))
        whole = held - held % size
        for start in range(0, whole, size):
            yield users[start : start + size], items[start : start + size]
        left, held = [(users[whole:], items[whole:])], held - whole
    if held:
        users, items = (np.concatenate(part) for part in zip(*left, strict=True))
        yield users, items
