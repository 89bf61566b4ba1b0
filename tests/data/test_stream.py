"""Shards and stripes on their way through Ray Data."""

from __future__ import annotations

import numpy as np
import pytest
import ray.data

from adar_ray.data.dataset import Dataset
from adar_ray.data.order import Rows, stripe
from adar_ray.data.stream import stream_epochs, stream_shards


@pytest.mark.parametrize("block_size", [500, 1 << 27])
def test_each_shard_or_stripe_is_one_block_of_any_size(
    ray_cluster: None, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, block_size: int
):
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", block_size)
    monkeypatch.setattr(context.execution_options, "preserve_order", True)
    monkeypatch.setattr(context, "enable_progress_bars", False)
    shards = dataset.shards("sequences")
    n_shards = len(shards)
    assert n_shards > 1

    def read(number: int) -> Rows:
        return dataset.read_sequences(shards[number])

    expected = [read(shard) for shard in range(n_shards)]
    expected += [stripe(*read(0), 0, epoch, 0, worker, 2) for epoch in (1, 2) for worker in (0, 1)]
    assert all(item.nbytes > 1000 for _, item in expected)
    streams = stream_shards(read, n_shards), stream_epochs(read, 1, 0, 1, 2, 2)
    blocks = [b for stream in streams for b in stream.iter_batches(batch_size=None, batch_format="numpy")]
    for block, rows in zip(blocks, expected, strict=True):
        for column, values in zip((block["user"], block["item"]), rows, strict=True):
            assert column.dtype == np.int32
            assert np.array_equal(column, values)
