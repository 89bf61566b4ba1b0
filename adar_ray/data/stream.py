"""Stream a dataset's shards to the training workers with Ray Data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import ray
import ray.data

from adar_ray.data.order import ReadShard, Rows, shard_order, stripe


def stream_shards(read_shard: ReadShard, n_shards: int) -> ray.data.Dataset:
    """Stream the training shards in order, one block each, for workers that keep them."""
    descriptors = [{"shard": shard} for shard in range(n_shards)]
    return _one_block_each(descriptors, functools.partial(_read_shard, read_shard))


def stream_epochs(
    read_shard: ReadShard, n_shards: int, seed: int, first_epoch: int, last_epoch: int, workers: int
) -> ray.data.Dataset:
    """Stream all epochs from first to last, with a block for each stripe of each shard.

    One stream for the whole run saves the seconds that every execution of a Ray Data plan takes to start.
    The blocks of a shard have the same length and come in the order of workers, so the equal, ordered split
    of Ray Train gives stripe w to worker w.
    """
    descriptors = [
        {"epoch": epoch, "shard": int(shard), "worker": worker}
        for epoch in range(first_epoch, last_epoch + 1)
        for shard in shard_order(n_shards, seed, epoch)
        for worker in range(workers)
    ]
    return _one_block_each(descriptors, functools.partial(_read_stripe, read_shard, seed, workers))


class EpochStream:
    """The blocks of `stream_epochs` that one worker receives, cut into epochs.

    After a restart, a worker that starts later than the stream drops the epochs before its first.
    """

    def __init__(self, blocks: Iterable[dict[str, np.ndarray]], n_shards: int, first_epoch: int) -> None:
        self._blocks, self._n_shards, self._next = iter(blocks), n_shards, first_epoch

    def stripes(self, epoch: int) -> Iterator[Rows]:
        """Yield the worker's stripes of an epoch. Epochs must be asked for in increasing order."""
        for _ in range((epoch - self._next) * self._n_shards):
            next(self._blocks)
        self._next = epoch + 1
        for _ in range(self._n_shards):
            block = next(self._blocks)
            yield block["user"], block["item"]


def _one_block_each(
    descriptors: list[dict[str, int]], read: Callable[[pa.Table], dict[str, np.ndarray]]
) -> ray.data.Dataset:
    source = ray.data.from_items(descriptors, override_num_blocks=len(descriptors))
    # By default Ray Data cuts the output of a task into blocks of 128 MiB.
    source.context.target_max_block_size = None
    return source.map_batches(read, batch_size=None, batch_format="pyarrow")


def _read_shard(read_shard: ReadShard, descriptor: pa.Table) -> dict[str, np.ndarray]:
    (entry,) = descriptor.to_pylist()
    user, item = read_shard(entry["shard"])
    return {"user": user, "item": item}


def _read_stripe(
    read_shard: ReadShard, seed: int, workers: int, descriptor: pa.Table
) -> dict[str, np.ndarray]:
    (entry,) = descriptor.to_pylist()
    user, item = read_shard(entry["shard"])
    user, item = stripe(user, item, seed, entry["epoch"], entry["shard"], entry["worker"], workers)
    return {"user": user, "item": item}
