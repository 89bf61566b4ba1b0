"""How a run trains: parts of a batch, precision, learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import adar_ray.losses as losses_module
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from adar_ray.training.trainer import train
from tests.data.making import make_dataset

SMALL = ["model.embedding_dim=8", "train.batch_size=64", "train.epochs=2", "train.device=cpu", "adar.pool=64"]
MF = ["model.name=mf", "loss.name=bpr"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("made"), users=60, items=50, most=20, length=6, stride=6)


def trained(made: Dataset, out: Path, *settings: str) -> Run:
    return train(made, out, load_config(settings=[*SMALL, *settings]), workers=0)


def losses(epochs: list[EpochRecord]) -> list[float]:
    return [number for epoch in epochs for number in (epoch.loss, epoch.penalty, epoch.sampler.hardness)]


@pytest.mark.parametrize(
    "settings",
    [
        MF,
        ["model.name=lightgcn", "loss.name=sampled_softmax"],
        ["model.name=mf", "loss.name=cross_entropy"],
        ["model.name=sasrec", "sasrec.dropout=0", "train.batch_size=8", "train.accumulate=3"],
    ],
    ids=["rows", "shared negatives", "all items", "histories"],
)
def test_parts_of_a_batch_train_as_the_whole(made: Dataset, tmp_path: Path, settings: list[str]) -> None:
    whole = trained(made, tmp_path / "whole", *settings, "train.accumulate=1")
    parts = trained(made, tmp_path / "parts", *settings, "train.accumulate=3")
    assert losses(parts.epochs()) == pytest.approx(losses(whole.epochs()), rel=1e-4)


def test_a_batch_may_have_fewer_rows_than_parts(made: Dataset, tmp_path: Path) -> None:
    settings = ["model.name=gru4rec", "gru4rec.dropout=0", "train.batch_size=2"]
    whole = trained(made, tmp_path / "whole", *settings)
    parts = trained(made, tmp_path / "parts", *settings, "train.accumulate=5")
    assert losses(parts.epochs()) == pytest.approx(losses(whole.epochs()), rel=1e-4)


def test_negatives_out_of_the_batch_are_fewer_in_its_parts(made: Dataset, tmp_path: Path) -> None:
    settings = ["model.name=mf", "sampler.name=in_batch", "loss.name=sampled_softmax"]
    whole = trained(made, tmp_path / "whole", *settings)
    parts = trained(made, tmp_path / "parts", *settings, "train.accumulate=4")
    assert parts.epochs()[0].loss < whole.epochs()[0].loss - 1  # a softmax over a quarter of the items


@pytest.mark.parametrize("model", ["neumf", "ngcf", "gru4rec", "bert4rec"])
def test_bfloat16_computes_a_little_differently_and_keeps_weights_as_they_are(
    made: Dataset, tmp_path: Path, model: str
) -> None:
    settings = [f"model.name={model}", f"{model}.dropout=0"]
    exact = trained(made, tmp_path / "exact", *settings)
    rounded = trained(made, tmp_path / "rounded", *settings, "train.precision=bfloat16")
    assert losses(rounded.epochs()) != losses(exact.epochs())
    assert losses(rounded.epochs()) == pytest.approx(losses(exact.epochs()), rel=0.02)
    assert {weight.dtype for weight in rounded.weights().values()} == {torch.float32}


@pytest.mark.parametrize("loss", ["bpr", "bce", "sampled_softmax"])
def test_with_bfloat16_losses_stay_in_single_precision(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    function, dtypes = getattr(losses_module, loss), set()

    def noted(positive_B: torch.Tensor, negative_BK: torch.Tensor, *rest: Any) -> torch.Tensor:
        dtypes.update([positive_B.dtype, negative_BK.dtype])
        return function(positive_B, negative_BK, *rest)

    monkeypatch.setattr(losses_module, loss, noted)
    options = [f"loss.name={loss}", "loss.l2=0.1", "train.precision=bfloat16", "train.epochs=1"]
    trained(made, tmp_path / "run", "model.name=gru4rec", *options)
    assert dtypes == {torch.float32}


def test_a_step_has_the_learning_rate_of_its_place_in_all_epochs(made: Dataset, tmp_path: Path) -> None:
    """With a step an epoch, an epoch's loss shows the steps before."""
    one_step = [*MF, "train.batch_size=100000", "train.epochs=4"]
    rising = trained(made, tmp_path / "rising", *one_step, "optimizer.lr=0.08", "optimizer.warmup=1").epochs()
    quarter = trained(made, tmp_path / "quarter", *one_step, "optimizer.lr=0.02").epochs()
    assert losses(rising[:2]) == losses(quarter[:2])
    assert rising[2].loss != quarter[2].loss
