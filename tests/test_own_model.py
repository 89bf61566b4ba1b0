"""The example of a model of one's own: nothing inherited, three methods, trained and used like any other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import adar_ray
from adar_ray import evaluate, train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_model.py"


def test_the_example_trains_and_is_ranked_like_any_model(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    settings = ["model.name=own_model:build", "model.dim=8", "adar.pool=16", "adar.M=2"]
    settings += ["optimiser.lr=0.03", "train.epochs=8", "train.batch_size=128", "train.device=cpu"]
    run = train(dataset, tmp_path / "run", load_config(settings=settings), workers=0)
    # Negatives grow harder as the model learns, so that the loss tells nothing.
    figures = [epoch["valid"]["ndcg@20"] for epoch in run.epochs()]
    assert max(figures[4:]) > 1.2 * figures[0]
    assert 0 < evaluate(run)["metrics"]["recall@20"] < 1
    bases = sys.modules["own_model"].TwoTower.__mro__
    assert not [base for base in bases if base.__module__.startswith(adar_ray.__name__)]


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
