"""Training on sequence rows: a model learns the next item, however the rows reach it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.manifest import Sequences
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.training.run import Run
from adar_ray.training.trainer import train

SMALL = [
    "model.name=sasrec",
    "model.embedding_dim=16",
    "sasrec.layers=1",
    "sasrec.heads=1",
    "train.device=cpu",
    "sampler.name=uniform",
    "uniform.negatives=4",
    "optimizer.lr=0.01",
]


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users who walk around a ring of 30 items for 3 to 17 steps, each from some start."""
    folder = tmp_path_factory.mktemp("ring")
    lines = [
        f"{user},{(user * 7 + step) % 30},{step}\n" for user in range(200) for step in range(3 + user % 15)
    ]
    (folder / "ring.csv").write_text("user,item,timestamp\n" + "".join(lines))
    return prepare(folder / "ring.csv", folder / "data", sequence_length=6, rows_per_shard=700)


def config(*settings: str, epochs: int = 2) -> Config:
    return load_config(settings=[*SMALL, f"train.epochs={epochs}", *settings])


def metrics(run: Run) -> list[dict[str, Any]]:
    return [epoch.model_dump(exclude={"time"}) for epoch in run.epochs()]


def test_learns_the_next_item(ring: Dataset, tmp_path: Path):
    run = train(
        ring, tmp_path / "run", config("train.batch_size=64", "train.patience=40", epochs=40), workers=0
    )
    # The next item follows from the last one, in validation as in test, for every user. Without the
    # history up to test, the model would name the item of validation.
    assert evaluate(run, "valid", [1]).metrics["recall@1"] > 0.95
    assert evaluate(run, "test", [1]).metrics["recall@1"] > 0.95
    best = run.epochs()[run.result().best_epoch - 1].valid
    again = evaluate(run, "valid", [10, 20]).metrics
    assert best == pytest.approx({name: again[name] for name in best}, rel=1e-12)
    with pytest.raises(AdarError, match=r"before train, which is nothing; evaluate another --split"):
        evaluate(run, "train")


@pytest.mark.usefixtures("ray_cluster")
def test_streamed_cached_and_distributed_rows_train_alike(ring: Dataset, tmp_path: Path):
    settings = ["train.batch_size=64", "sasrec.dropout=0"]
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
def test_dataset_without_sequence_rows(tmp_path: Path, workers: int):
    source = tmp_path / "single.csv"
    source.write_text("user,item\n" + "".join(f"{user},{user % 3}\n" for user in range(9)))
    data = prepare(source, tmp_path / "data")
    assert data.sequences == Sequences(length=50, stride=50, rows=0)
    with pytest.raises(AdarError) as caught:
        train(data, tmp_path / "run", config(), workers=workers)
    assert str(caught.value).startswith(f"{data.folder}: no user has two training interactions")
    assert "\n" not in str(caught.value)


def test_older_dataset_without_sequence_rows(ring: Dataset, tmp_path: Path):
    manifest = {**ring.manifest.model_dump(), "schema_version": 1}
    del manifest["sequences"]
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(AdarError, match=r"written by an earlier version\); restore it, or prepare again$"):
        train(tmp_path, tmp_path / "run", config(), workers=0)
