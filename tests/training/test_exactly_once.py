"""Every interaction is trained on exactly once an epoch, whoever trains, and wherever others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from adar_ray.data.chunks import WorkerRows
from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.data.order import Batch, batches, steps_per_epoch
from tests.data.making import make_dataset

BATCH = 70
EPOCH = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = make_dataset(
        tmp_path_factory.mktemp("made"), users=71, items=60, rows_per_shard=300, length=4, stride=2
    )
    rows = made.lane_rows("train")
    assert rows.max() > 2 * rows.min()  # uneven lanes
    return made


def steps(made: Dataset, kind: str, workers: int, keeps: bool) -> Iterator[list[Batch]]:
    """The batches of all workers, step by step."""
    own = []
    for worker in range(workers):
        rows = WorkerRows(made, kind, 5, worker, workers)
        chunks = (rows.kept() if keeps else rows).epoch(EPOCH)
        own.append(batches(chunks, rows.bounds, rows.first_lane, made.lane_rows(kind), BATCH))
    return (list(step) for step in zip(*own, strict=True))


def rows_of(step: list[Batch]) -> Counter[tuple[int, ...]]:
    return Counter(
        (int(user), *np.atleast_1d(item).tolist())
        for batch in step
        for user, item in zip(batch.user, batch.item, strict=True)
    )


def everything(made: Dataset, kind: str) -> Counter[tuple[int, ...]]:
    read = made.read_sequences if kind == SEQUENCES else made.read_shard
    return sum((rows_of([Batch(*read(shard), 0, 0)]) for shard in made.shards(kind)), Counter())


@pytest.mark.parametrize("kind", ["train", SEQUENCES])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_by_some_workers(made: Dataset, kind: str, keeps: bool, workers: int) -> None:
    seen = sum((rows_of(step) for step in steps(made, kind, workers, keeps)), Counter())
    assert seen == everything(made, kind)


@pytest.mark.parametrize("kind", ["train", SEQUENCES])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (1, 3), (3, 2), (2, 1), (64, 3)])
def test_by_others_from_any_step_on(made: Dataset, kind: str, before: int, after: int) -> None:
    """After a resume in the middle of an epoch, on as many workers or others."""
    count = steps_per_epoch(int(made.lane_rows(kind).sum()), BATCH)
    every = everything(made, kind)
    for done in (0, 1, count // 2, count):
        first = islice(steps(made, kind, before, keeps=False), done)
        rest = islice(steps(made, kind, after, keeps=True), done, None)
        assert sum((rows_of(step) for part in (first, rest) for step in part), Counter()) == every
