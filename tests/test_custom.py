"""The example of a model of one's own: nothing inherited, three methods, trained and used like any other."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import adar_ray
from adar_ray import evaluate, recommend, train
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.tuning.folder import Plan, read_trials
from adar_ray.tuning.search import tune_space
from adar_ray.tuning.spaces import Space

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_model.py"
QUICK = {
    "model": {"dim": 8},
    "adar": {"pool": 16, "M": 2},
    "optimizer": {"lr": 0.03},
    "train": {"epochs": 2, "batch_size": 128, "device": "cpu"},
}


def quick(name: str = "own_model:build", *settings: str) -> Config:
    return load_config(values=QUICK, settings=[f"model.name={name}", *settings])


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray's workers, which have been started before, know of no such module."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)


def test_the_example_trains_and_is_ranked_like_any_model(
    dataset: Dataset, tmp_path: Path, example: None
) -> None:
    run = train(dataset, tmp_path / "run", quick("own_model:build", "train.epochs=8"), workers=0)
    # Negatives grow harder as the model learns, so that the loss tells nothing.
    figures = [epoch["valid"]["ndcg@20"] for epoch in run.epochs()]
    assert max(figures[4:]) > 1.2 * figures[0]
    assert 0 < evaluate(run)["metrics"]["recall@20"] < 1
    bases = sys.modules["own_model"].TwoTower.__mro__
    assert not [base for base in bases if base.__module__.startswith(adar_ray.__name__)]
    top = recommend(run, tmp_path / "top", k=5)
    assert pq.read_table(top.path).num_rows == 5 * dataset.n_users


def test_ray_workers_find_the_example_where_the_driver_does(
    dataset: Dataset, tmp_path: Path, example: None
) -> None:
    here = train(dataset, tmp_path / "here", quick(), workers=0)
    there = train(dataset, tmp_path / "there", quick(), workers=1)
    assert [epoch["loss"] for epoch in there.epochs()] == [epoch["loss"] for epoch in here.epochs()]


def test_trials_find_the_example_where_the_driver_does(
    dataset: Dataset, tmp_path: Path, example: None
) -> None:
    content = {"base": QUICK | {"model": {"name": "own_model:build", "dim": 8}}}
    content |= {"parameters": {"adar.beta": {"choice": [0.7, 0.9]}}, "scheduler": {"name": "none"}}
    search = tune_space(dataset, Space.from_mapping(content, "test"), tmp_path / "search", trials=1, seeds=0)
    (trial,) = read_trials(Plan.open(search.address))
    assert (trial.status, trial.epochs) == ("finished", 2)


def test_a_module_that_workers_cannot_import_is_named_in_one_line(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(EXAMPLE, tmp_path / "gone_model.py")
    run = train(dataset, tmp_path / "run", quick("gone_model:build"), workers=0)
    (tmp_path / "gone_model.py").unlink()  # this process has imported it already
    with pytest.raises(AdarError, match=r"^model.name gone_model:build: cannot be imported") as caught:
        recommend(run, tmp_path / "top", k=5)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "top").exists()


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
