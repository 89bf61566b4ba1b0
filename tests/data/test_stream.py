"""A worker's chunks on their way through Ray Data."""

from __future__ import annotations

import numpy as np
import pytest
import ray.data

from adar_ray.data import stream
from adar_ray.data.chunks import WorkerRows
from adar_ray.data.dataset import Dataset
from adar_ray.data.stream import stream_epochs, streamed_chunks


@pytest.fixture
def in_order(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context.execution_options, "preserve_order", True)
    monkeypatch.setattr(context, "enable_progress_bars", False)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("block_size", [500, 1 << 27])
def test_each_chunk_is_one_block_of_any_size(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, block_size: int
) -> None:
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", block_size)
    rows = WorkerRows(dataset, "sequences", 3, 0, 2)
    assert rows.chunks > 1
    expected = [chunk for epoch in (2, 3) for chunk in rows.epoch(epoch)]
    assert all(item.nbytes > 1000 for _, item in expected)
    blocks = stream_epochs(rows, 2, 3).iter_batches(batch_size=None, batch_format="numpy")
    for block, chunk in zip(blocks, expected, strict=True):
        for column, values in zip((block["user"], block["item"]), chunk, strict=True):
            assert column.dtype == np.int32
            assert np.array_equal(column, values)


@pytest.mark.usefixtures("in_order")
def test_a_worker_without_rows_streams_nothing(dataset: Dataset) -> None:
    rows = WorkerRows(dataset, "train", 3, 0, 1)
    rows._shards = []
    assert rows.chunks == 0
    chunks = streamed_chunks(rows, 3)
    assert [[*chunks(epoch)] for epoch in (1, 2, 3)] == [[], [], []]


@pytest.mark.usefixtures("in_order")
def test_the_stream_starts_where_training_does(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = WorkerRows(dataset, "train", 3, 1, 3), []
    monkeypatch.setattr(
        stream, "stream_epochs", lambda *epochs: asked.append(epochs) or stream_epochs(*epochs)
    )
    chunks = streamed_chunks(rows, 3)
    for epoch in (2, 3):
        for ours, expected in zip(chunks(epoch), rows.epoch(epoch), strict=True):
            assert np.array_equal(ours, expected)
    assert asked == [(rows, 2, 3)]


@pytest.mark.usefixtures("in_order")
def test_an_empty_chunk_keeps_its_place(dataset: Dataset) -> None:
    """A worker with few of a shard's users may have none of those in one shard."""
    rows = next(
        rows
        for workers in (64, 128, 256)
        for rows in (WorkerRows(dataset, "train", 3, worker, workers) for worker in range(workers))
        if rows.chunks > 1 and any(len(rows.chunk(1, chunk)[0]) == 0 for chunk in range(rows.chunks))
    )
    chunks = streamed_chunks(rows, 3)
    for epoch in (1, 2, 3):
        for ours, expected in zip(chunks(epoch), rows.epoch(epoch), strict=True):
            assert np.array_equal(ours, expected)
