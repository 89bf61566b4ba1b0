"""Stream a dataset's shards to the training workers with Ray Data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import ray
import ray.data

from adar_ray.data.chunks import WorkerRows
from adar_ray.data.order import Rows


def stream_epochs(rows: WorkerRows, first_epoch: int, last_epoch: int) -> ray.data.Dataset:
    """Stream one worker's rows of all epochs from first to last, a block for each chunk.

    One stream for the whole run saves the seconds that every execution of a Ray Data plan takes to start.
    """
    descriptors = [
        {"epoch": epoch, "chunk": chunk}
        for epoch in range(first_epoch, last_epoch + 1)
        for chunk in range(rows.chunks)
    ]
    source = ray.data.from_items(descriptors, override_num_blocks=max(len(descriptors), 1))
    # By default Ray Data cuts the output of a task into blocks of 128 MiB.
    source.context.target_max_block_size = None
    return source.map_batches(functools.partial(_read_chunk, rows), batch_size=None, batch_format="pyarrow")


class EpochStream:
    """The blocks of `stream_epochs`, cut into epochs.

    After a restart, a worker that starts later than the stream drops the epochs before its first.
    """

    def __init__(self, blocks: Iterable[dict[str, np.ndarray]], chunks: int, first_epoch: int) -> None:
        self._blocks, self._chunks, self._next = iter(blocks), chunks, first_epoch

    def chunks(self, epoch: int) -> Iterator[Rows]:
        """Yield the chunks of an epoch. Epochs must be asked for in increasing order."""
        for _ in range((epoch - self._next) * self._chunks):
            next(self._blocks)
        self._next = epoch + 1
        for _ in range(self._chunks):
            block = next(self._blocks)
            yield block["user"], block["item"]


def _read_chunk(rows: WorkerRows, descriptor: pa.Table) -> dict[str, np.ndarray]:
    (entry,) = descriptor.to_pylist()
    user, item = rows.chunk(entry["epoch"], entry["chunk"])
    return {"user": user, "item": item}
