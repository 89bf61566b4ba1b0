"""A worker's rows of a dataset: its own users', in memory or read again, in the order of the epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adar_ray.data.chunks import WorkerRows
from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.data.order import Batch, batches
from tests.data.making import make_dataset


@pytest.fixture(scope="module", params=[100_000, 600, 30], ids="{} rows a shard".format)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """In one shard, in some groups of lanes, and in several shards of every lane."""
    return make_dataset(tmp_path_factory.mktemp("made"), rows_per_shard=request.param)


def epoch_batches(rows: WorkerRows, epoch: int, size: int) -> list[Batch]:
    lane_rows = rows.dataset.lane_rows(rows.kind)
    return list(batches(rows.epoch(epoch), rows.bounds, rows.first_lane, lane_rows, size))


def as_rows(user: np.ndarray, item: np.ndarray) -> list[tuple[int, ...]]:
    return [(u, *np.atleast_1d(i).tolist()) for u, i in zip(user.tolist(), item, strict=True)]


def everything(dataset: Dataset, kind: str) -> list[tuple[int, ...]]:
    read = dataset.read_sequences if kind == SEQUENCES else dataset.read_shard
    return sorted(row for shard in dataset.shards(kind) for row in as_rows(*read(shard)))


@pytest.mark.parametrize("kind", ["train", SEQUENCES])
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 64])
def test_workers_share_the_rows_by_user_and_batches_stay_the_same(made, kind, workers):
    alone = [as_rows(batch.user, batch.item) for batch in epoch_batches(WorkerRows(made, kind, 5, 0, 1), 2, 300)]
    steps: list[list[tuple[int, ...]]] = [[] for _ in alone]
    for worker in range(workers):
        rows = WorkerRows(made, kind, 5, worker, workers)
        first, last = made.user_range(worker, workers)
        for step, batch in zip(steps, epoch_batches(rows, 2, 300), strict=True):
            assert ((batch.user >= first) & (batch.user < last)).all()
            assert batch.first == len(step)
            step += as_rows(batch.user, batch.item)
    assert steps == alone
    assert sorted(row for step in steps for row in step) == everything(made, kind)


@pytest.mark.parametrize("kind", ["train", SEQUENCES])
def test_rows_in_memory_are_visited_like_those_read_again(made, kind):
    for worker in range(3):
        read = WorkerRows(made, kind, 5, worker, 3)
        kept = read.kept()
        assert kept.chunks == read.chunks
        for epoch in (1, 2):
            for one, other in zip(kept.epoch(epoch), read.epoch(epoch), strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_all_rows_of_a_worker_are_those_of_its_users(made):
    rows = [row for worker in range(5) for row in as_rows(*WorkerRows(made, "train", 0, worker, 5).all_rows())]
    assert sorted(rows) == everything(made, "train")


def test_epochs_have_their_own_orders(made):
    rows = WorkerRows(made, "train", 5, 0, 1).kept()
    first, second = (np.concatenate([item for _, item in rows.epoch(epoch)]) for epoch in (1, 2))
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.sort(second))


def test_a_worker_without_users_has_no_rows(tmp_path: Path):
    """Of sixty-four lanes most are empty where there are few users."""
    dataset = make_dataset(tmp_path, users=5)
    sizes = [dataset.user_range(worker, 64) for worker in range(64)]
    empty = next(worker for worker, (first, last) in enumerate(sizes) if first == last)
    rows = WorkerRows(dataset, "train", 0, empty, 64)
    assert len(rows.all_rows()[0]) == 0
    assert all(len(batch.user) == 0 for batch in epoch_batches(rows, 1, 10))
    assert sum(batch.rows for batch in epoch_batches(rows, 1, 10)) == dataset.rows("train")
