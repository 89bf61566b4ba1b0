"""Sequence rows, from windows over a user's items to a trained model that tells the next item."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.data

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.order import stripe
from adar_ray.data.prepare import prepare
from adar_ray.data.sequences import Windows
from adar_ray.data.stream import stream_epochs, stream_shards
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.training.run import Run
from adar_ray.training.trainer import train

L = 4


def slow_windows(items: list[int], length: int, stride: int) -> list[list[int]]:
    """A user's rows without padding, oldest first, as the definition reads."""
    rows, end = [], len(items)
    while len(items[:end]) >= 2 and end > 0:
        rows.insert(0, items[max(0, end - length - 1) : end])
        end -= stride
    return rows


def padded(row: list[int], length: int) -> list[int]:
    return [-1] * (length + 1 - len(row)) + row


def rows_of(windows: Windows, *users: tuple[int, list[int]]) -> tuple[list[int], list[list[int]]]:
    user_E = np.repeat([user for user, _ in users], [len(items) for _, items in users]).astype(np.int32)
    item_E = np.array([item for _, items in users for item in items], dtype=np.int32)
    user_R, item_RN = windows.rows(user_E, item_E)
    assert user_R.dtype == item_RN.dtype == np.int32
    assert item_RN.shape == (len(user_R), windows.length + 1)
    return user_R.tolist(), item_RN.tolist()


@pytest.mark.parametrize(
    ("stride", "items", "rows"),
    [
        (L, 0, []),
        (L, 1, []),
        (L, 2, [[0, 1]]),
        (L, L, [[0, 1, 2, 3]]),
        (L, L + 1, [[0, 1, 2, 3, 4]]),
        (L, L + 2, [[0, 1], [1, 2, 3, 4, 5]]),
        (L, 2 * L + 3, [[0, 1, 2], [2, 3, 4, 5, 6], [6, 7, 8, 9, 10]]),
        (3, L, [[0, 1, 2, 3]]),
        (3, L + 1, [[0, 1], [0, 1, 2, 3, 4]]),
        (3, L + 2, [[0, 1, 2], [1, 2, 3, 4, 5]]),
        (3, 2 * L + 3, [[0, 1], [0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]),
        (1, 1, []),
        (1, 2, [[0, 1]]),
        (1, L, [[0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        (1, L + 2, [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]),
    ],
)
def test_windows_by_hand(stride: int, items: int, rows: list[list[int]]):
    user, item = rows_of(Windows(L, stride), (0, [50, 51]), (3, list(range(items))), (4, [60, 61]))
    others = [[50, 51], [60, 61]]
    assert user == [0, *[3] * len(rows), 4]
    assert item == [padded(row, L) for row in [others[0], *rows, others[1]]]


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (5, 1), (5, 2), (5, 5), (50, 7), (50, 50)])
def test_windows_against_a_loop_and_every_item_but_the_first_is_learned_once(length: int, stride: int):
    draw = np.random.default_rng(length + stride)
    counts = draw.integers(1, 4 * length + 3, 60)
    users = [(int(user), draw.integers(0, 9, count).tolist()) for user, count in enumerate(counts * 2)]
    rows = [(user, row) for user, items in users for row in slow_windows(items, length, stride)]
    user, item = rows_of(Windows(length, stride), *users)
    assert user == [user for user, _ in rows]
    assert item == [padded(row, length) for _, row in rows]
    learned = [(user, i) for user, row in rows for i in row[-min(stride, len(row) - 1) :]]
    assert Counter(learned) == Counter((user, i) for user, items in users for i in items[1:])


@pytest.mark.parametrize(
    ("length", "stride", "words"), [(0, 0, "length 0"), (5, 0, "1 to 5"), (5, 6, "1 to 5"), (5, -1, "1 to 5")]
)
def test_windows_that_cannot_be(length: int, stride: int, words: str):
    with pytest.raises(AdarError, match=words):
        Windows(length, stride)


# On Ray Data.


@pytest.fixture(scope="module")
def ring(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who walk around a ring of 30 items, each from somewhere: 3 to 17 steps."""
    folder = tmp_path_factory.mktemp("ring")
    lines = [
        f"{user},{(user * 7 + step) % 30},{step}\n" for user in range(200) for step in range(3 + user % 15)
    ]
    (folder / "ring.csv").write_text("user,item,timestamp\n" + "".join(lines))
    return prepare(folder / "ring.csv", folder / "data", sequence_length=6, rows_per_shard=700)


@pytest.mark.parametrize("block_size", [500, 1 << 27])
def test_shards_and_stripes_are_a_block_each_however_large(
    ring: Dataset, monkeypatch: pytest.MonkeyPatch, block_size: int
):
    context = ray.data.DataContext.get_current()
    monkeypatch.setattr(context, "target_max_block_size", block_size)
    monkeypatch.setattr(context.execution_options, "preserve_order", True)
    monkeypatch.setattr(context, "enable_progress_bars", False)
    read, n_shards = ring.read_sequences, len(ring.shards("sequences"))
    assert n_shards > 1
    expected = [read(shard) for shard in range(n_shards)]
    expected += [stripe(*read(0), 0, epoch, 0, worker, 2) for epoch in (1, 2) for worker in (0, 1)]
    assert all(item.nbytes > 1000 for _, item in expected)
    streams = stream_shards(read, n_shards), stream_epochs(read, 1, 0, 1, 2, 2)
    blocks = [b for stream in streams for b in stream.iter_batches(batch_size=None, batch_format="numpy")]
    for block, rows in zip(blocks, expected, strict=True):
        for column, values in zip((block["user"], block["item"]), rows, strict=True):
            assert column.dtype == np.int32
            assert np.array_equal(column, values)


# Training.

SMALL = [
    "model.name=sasrec",
    "model.dim=16",
    "model.layers=1",
    "model.heads=1",
    "train.device=cpu",
    "sampler.name=uniform",
    "sampler.negatives=4",
    "optimizer.lr=0.01",
]


def config(*settings: str, epochs: int = 2) -> Config:
    return load_config(settings=[*SMALL, f"train.epochs={epochs}", *settings])


def metrics(run: Run) -> list[dict[str, Any]]:
    return [epoch.model_dump(exclude={"time"}) for epoch in run.epochs()]


def test_learns_what_comes_next(ring: Dataset, tmp_path: Path):
    run = train(ring, tmp_path / "run", config("train.batch_size=64", epochs=25), workers=0)
    # The next item follows from the last one, in validation as in test, for every user. Without the
    # history up to test, the model would name the item of validation.
    assert evaluate(run, "valid", [1]).metrics["recall@1"] > 0.95
    assert evaluate(run, "test", [1]).metrics["recall@1"] > 0.95
    best = run.epochs()[run.result().best_epoch - 1].valid
    again = evaluate(run, "valid", [10, 20]).metrics
    assert {name: best[name] for name in again} == pytest.approx(again, rel=1e-12)
    with pytest.raises(AdarError, match=r"before train, which is nothing; evaluate another --split"):
        evaluate(run, "train")


def test_streamed_kept_and_shared_rows_train_alike(ring: Dataset, tmp_path: Path):
    settings = ["train.batch_size=64", "model.dropout=0"]
    alone = [
        train(ring, tmp_path / cache, config(f"data.cache={cache}", *settings), workers=0)
        for cache in ("always", "never")
    ]
    assert metrics(alone[0]) == metrics(alone[1])
    shared = train(ring, tmp_path / "shared", config("data.cache=never", *settings), workers=2)
    for mine, theirs in zip(metrics(shared), metrics(alone[0]), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["valid"] == pytest.approx(theirs["valid"], rel=1e-2)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [0, 1])
def test_no_sequences(tmp_path: Path, workers: int):
    source = tmp_path / "single.csv"
    source.write_text("user,item\n" + "".join(f"{user},{user % 3}\n" for user in range(9)))
    data = prepare(source, tmp_path / "data")
    assert data.sequences == {"length": 50, "stride": 50, "rows": 0}
    with pytest.raises(AdarError) as caught:
        train(data, tmp_path / "run", config(), workers=workers)
    assert str(caught.value).startswith(f"{data.folder}: no user has two training interactions")
    assert "\n" not in str(caught.value)


def test_a_dataset_of_before_sequence_rows(ring: Dataset, tmp_path: Path):
    manifest = {**ring.manifest, "schema_version": 1}
    del manifest["sequences"]
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(AdarError, match=r"schema version 1, this program reads 2; prepare again$"):
        train(tmp_path, tmp_path / "run", config(), workers=0)
