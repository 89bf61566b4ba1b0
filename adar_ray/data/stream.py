"""Stream a dataset's shards to the training workers with Ray Data."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from adar_ray.data.chunks import WorkerRows
from adar_ray.data.order import Chunks, Rows

NOBODY = -1
"""The user of the single row that stands for an empty chunk; Ray Data would leave out an empty block."""


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


def streamed_chunks(rows: WorkerRows, last_epoch: int) -> Chunks:
    """The chunks of each epoch. Epochs must be asked for in increasing order; the first starts the stream."""
    blocks: Iterator[Any] | None = None

    def chunks(epoch: int) -> Iterator[Rows]:
        nonlocal blocks
        if blocks is None:
            stream = stream_epochs(rows, epoch, last_epoch)
            blocks = iter(stream.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))
        for block in itertools.islice(blocks, rows.chunks):
            rows_of_chunk = slice(0 if block["user"][0] == NOBODY else None)
            yield block["user"][rows_of_chunk], block["item"][rows_of_chunk]

    return chunks


def _read_chunk(rows: WorkerRows, descriptor: pa.Table) -> dict[str, np.ndarray]:
    (entry,) = descriptor.to_pylist()
    user, item = rows.chunk(entry["epoch"], entry["chunk"])
    if not len(user):
        user = item = np.full(1, NOBODY, np.int32)
    return {"user": user, "item": item}
