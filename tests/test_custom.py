"""Custom components: the example model trains like any other, and so do custom samplers and losses."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import adar_ray
from adar_ray import evaluate, recommend, train
from adar_ray.comparison.compare import compare
from adar_ray.config import Config, load_config
from adar_ray.custom import blamed, find_custom
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, TransientError, may_pass
from adar_ray.inference.publish import publish
from adar_ray.training.run import Run
from adar_ray.tuning.checks import check
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import tune
from adar_ray.tuning.space import Space

EXAMPLE = Path(__file__).parents[1] / "examples" / "custom_model.py"
QUICK = {
    "model": {"embedding_dim": 8},
    "adar": {"pool": 16, "candidates": 2},
    "optimizer": {"lr": 0.03},
    "train": {"epochs": 2, "batch_size": 128, "device": "cpu"},
}


def quick(name: str = "custom_model:build", *settings: str) -> Config:
    return load_config(values=QUICK, settings=[f"model.name={name}", *settings])


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray's workers, which have been started before, know of no such module."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)


def test_the_example_trains_and_is_ranked_like_any_model(
    dataset: Dataset, tmp_path: Path, example: None
) -> None:
    run = train(dataset, tmp_path / "run", quick("custom_model:build", "train.epochs=8"), workers=0)
    # Negatives grow harder as the model learns, so that the loss tells nothing.
    figures = [epoch.valid["ndcg@20"] for epoch in run.epochs()]
    assert max(figures[4:]) > 1.2 * figures[0]
    assert 0 < evaluate(run).metrics["recall@20"] < 1
    bases = sys.modules["custom_model"].TwoTower.__mro__
    assert not [base for base in bases if base.__module__.startswith(adar_ray.__name__)]
    top = recommend(run, tmp_path / "top", k=5).folder
    assert pq.read_table(top.path).num_rows == 5 * dataset.n_users


def test_a_trained_custom_model_needs_no_dataset(dataset: Dataset, tmp_path: Path, example: None) -> None:
    data = shutil.copytree(dataset.folder.path, tmp_path / "data")
    run = train(data, tmp_path / "run", quick(), workers=0)
    found = evaluate(run, data=data)
    shutil.rmtree(data)
    assert evaluate(run) == found  # although the example's features are made of times


def test_ray_workers_find_the_example_where_the_driver_does(
    ray_cluster: None, dataset: Dataset, tmp_path: Path, example: None
) -> None:
    here = train(dataset, tmp_path / "here", quick(), workers=0)
    there = train(dataset, tmp_path / "there", quick(), workers=1)
    assert [epoch.loss for epoch in there.epochs()] == [epoch.loss for epoch in here.epochs()]


def test_trials_find_the_example_where_the_driver_does(
    dataset: Dataset, tmp_path: Path, example: None
) -> None:
    content = {"base": QUICK | {"model": {"name": "custom_model:build", "embedding_dim": 8}}}
    content |= {"parameters": {"adar.beta": {"choice": [0.7, 0.9]}}, "scheduler": {"name": "none"}}
    search = tune(dataset, Space.from_mapping(content, "test"), tmp_path / "search", trials=1, seeds=0)
    (trial,) = Search.open(search.address, trust=True).read_trials()
    assert (trial.status, trial.epochs) == ("finished", 2)


@pytest.mark.usefixtures("ray_cluster")  # this process itself would need no import
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


COMPONENTS = """
import torch
from adar_ray.models.protocol import dot_score
from adar_ray.samplers.base import Negatives
from torch import nn
from torch.nn.functional import relu


class First(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, user_BD, positive_BD, context, rng):
        item_BK = torch.arange(self.number).expand(len(user_BD), -1)
        return Negatives(context.vectors(item_BK), ~context.seen(item_BK), item_BK)


def first_items(dataset, config):
    return First(config.custom["number"])


def hinge(dataset, config):
    margin = config.custom.get("margin", 1.0)

    def loss(positive_B, negative_BK, mask_BK, log_q_BK):
        return (relu(margin + negative_BK - positive_B[:, None]) * mask_BK).mean(1)

    return loss


def no_module(dataset, config):
    return object()


def unreduced(dataset, config):
    return lambda positive_B, negative_BK, *others: relu(negative_BK - positive_B[:, None])


def kept_dimension(dataset, config):
    return lambda *given: unreduced(dataset, config)(*given).mean(1, keepdim=True)


def scalar(dataset, config):
    return lambda *given: unreduced(dataset, config)(*given).mean()


def in_words(dataset, config):
    return lambda positive_B, negative_BK, mask_BK, log_q_BK: "low"


class Other(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, user_BD, positive_BD, context, rng):
        item_BK = torch.arange(4).expand(len(user_BD), -1)
        return self.answer(context.vectors(item_BK), ~context.seen(item_BK), item_BK)


def vectors_alone(dataset, config):
    return Other(lambda vector_BKD, mask_BK, item_BK: vector_BKD)


def fewer_masks(dataset, config):
    return Other(lambda vector_BKD, mask_BK, item_BK: Negatives(vector_BKD, mask_BK[:, :1], item_BK))


def failing(dataset, config):
    return Other(lambda vector_BKD, mask_BK, item_BK: {}["x"])


class Last(nn.Module):
    def __init__(self, dataset, reads):
        super().__init__()
        self.item = nn.Embedding(dataset.n_items, 8)
        self.reads = reads

    def users(self, batch):
        return self.item(batch[self.reads].clamp_min(0))[:, -1]

    def items(self, item):
        return self.item(item)

    def score(self, user_BD, item_BKD):
        return dot_score(user_BD, item_BKD)


def last_item(dataset, config):
    return Last(dataset, "history")


last_item.sequential = True


def undeclared(dataset, config):
    return Last(dataset, "history")


class Odd(nn.Module):
    def __init__(self, dataset):
        super().__init__()
        self.item = nn.Embedding(dataset.n_items, 8)

    def users(self, batch):
        return self.item(batch["user"] % 2)

    def items(self, item):
        return self.item(item)

    def score(self, user_BD, item_BKD):
        score_BK = dot_score(user_BD, item_BKD)
        return torch.cat([score_BK, score_BK[:, :1]], 1)


def one_more(dataset, config):
    return Odd(dataset)


def half(dataset, config):
    return Odd(dataset).half()


def frozen(dataset, config):
    return Odd(dataset).requires_grad_(False)


class Unlisted(Odd):
    def items(self, item):
        return [][len(item)]


def no_items(dataset, config):
    return Unlisted(dataset)


def early(dataset, config):
    # Always below 0.
    return lambda user_B, item_Bk, hit_Bk, relevant_B: -1 - item_Bk.double().mean(1)


def whose(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: user_B
"""


@pytest.fixture
def components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_components.py").write_text(COMPONENTS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_custom_sampler_and_a_custom_loss_train(dataset: Dataset, tmp_path: Path, components: None) -> None:
    config = load_config(
        values=QUICK,
        settings=[
            *("sampler.name=my_components:first_items", "custom.number=40"),
            *("model.name=mf", "loss.name=my_components:hinge", "train.epochs=6"),
        ],
    )
    run = train(dataset, tmp_path / "run", config, workers=0)
    losses = [epoch.loss for epoch in run.epochs()]
    assert losses[-1] < 0.8 * losses[0]
    # A seen item is masked, and a hinge of equal scores is its margin.
    assert 0.5 < losses[0] < 1
    assert "custom" in (tmp_path / "run" / "config.yaml").read_text()


def test_adar_joins_ordinary_negatives_beside_a_custom_loss(components: None) -> None:
    config = load_config(settings=["loss.name=my_components:hinge"])
    assert config.sampler_names() == ["uniform", "adar"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sampler.name=my_components:nothing", "my_components has First, Last, Odd, Other, Unlisted, early"),
        ("train.metric=my_components:erly@5", "my_components has First, Last, Odd, Other, Unlisted, early"),
        ("sampler.name=my_components:no_module", "lacks torch.nn.Module"),
        ("loss.name=nowhere:hinge", "cannot be imported"),
        ("model.name=my_components:no_module", "lacks a method users"),
        ("model.name=my_components:half", "its parameter item.weight is torch.float16; make it float32"),
        ("model.name=my_components:frozen", "Odd lacks a parameter to train"),
        ("model.name=my_components:First", "cannot be called with the dataset and the configuration"),
    ],
)
def test_a_custom_component_that_is_not_one_is_refused_by_its_key(
    dataset: Dataset, tmp_path: Path, components: None, setting: str, message: str
) -> None:
    config = load_config(values=QUICK, settings=[setting])
    with pytest.raises(AdarError, match=message) as caught:
        train(dataset, tmp_path / "run", config, workers=0)
    assert str(caught.value).startswith(setting.replace("=", " ").removesuffix("@5"))
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.name=my_components:unreduced", r"returns a tensor of shape \[126, 1\] for 126 rows"),
        ("loss.name=my_components:kept_dimension", r"returns a tensor of shape \[126, 1\] for 126 rows"),
        ("loss.name=my_components:scalar", r"returns a tensor of shape \[\] for 126 rows"),
        ("loss.name=my_components:in_words", "returns a str for 126 rows"),
        ("sampler.name=my_components:vectors_alone", "returns a Tensor; return adar_ray.samplers.base.Neg"),
        ("sampler.name=my_components:fewer_masks", r"has a mask_BK of shape \[126, 1\] for .* \[126, 4\]"),
        ("sampler.name=my_components:failing", "KeyError: 'x'"),
        ("model.name=my_components:undeclared", r"users\(\): KeyError: 'history'"),
        ("model.name=my_components:no_items", r"items\(\): IndexError: list index out of range"),
        ("model.name=my_components:one_more", r"score\(\): returns the shape \[126, (17|2)\], not"),
    ],
)
@pytest.mark.parametrize("sampler", ["uniform", "adar"])
def test_what_a_custom_component_does_wrong_is_said_by_its_key(
    dataset: Dataset, tmp_path: Path, components: None, setting: str, message: str, sampler: str
) -> None:
    given = ["model.name=mf", "uniform.negatives=1", f"sampler.name={sampler}", setting]
    with pytest.raises(AdarError, match=message) as caught:
        train(dataset, tmp_path / "run", load_config(values=QUICK, settings=given), workers=0)
    assert str(caught.value).startswith(setting.replace("=", " ") + ": ")


def test_a_sequential_model_that_returns_one_user_per_history_is_refused(
    dataset: Dataset, tmp_path: Path, components: None
) -> None:
    config = quick("my_components:last_item", "loss.name=bce", "train.batch_size=16")
    with pytest.raises(AdarError, match=r"^model.name my_components:last_item: users\(\) returns the shape"):
        train(dataset, tmp_path / "run", config, workers=0)


def test_a_component_that_cannot_be_made_leaves_no_run(
    dataset: Dataset, tmp_path: Path, components: None
) -> None:
    given = ["model.name=mf", "sampler.name=my_components:first_items"]
    with pytest.raises(AdarError, match=r"first_items: cannot be made \(KeyError: 'number'\)$"):
        train(dataset, tmp_path / "run", load_config(values=QUICK, settings=given), workers=0)
    assert not list((tmp_path / "run").iterdir())
    right = load_config(values=QUICK, settings=[*given, "custom.number=40"])
    before = train(dataset, tmp_path / "run", right, workers=0).result()
    wrong = load_config(values=QUICK, settings=given)
    with pytest.raises(AdarError, match="cannot be made"):
        train(dataset, tmp_path / "run", wrong, workers=0, replace=True)
    assert Run.open(tmp_path / "run", trust=True).result() == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.distributed.DistBackendError("NCCL"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        TransientError("a worker is lost"),
    ],
)
def test_what_may_pass_is_not_blamed_on_a_component(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        blamed("sampler.name a:b: ", fail)()
    assert caught.value is error
    assert may_pass(caught.value)


@pytest.mark.parametrize(
    ("code", "problem"), [("def build(:", "SyntaxError"), ("undefined", "NameError"), ("1 / 0", "ZeroDiv")]
)
def test_a_module_with_a_mistake_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    (tmp_path / f"mistake_{problem}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        AdarError, match=rf"^model.name mistake_{problem}:build: cannot be imported \({problem}"
    ):
        find_custom("model.name", f"mistake_{problem}:build")


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("import math; math.nope", "correct faulty"),
        ("from math import nope", "correct faulty"),
        ("import nowhere.at_all", "install nowhere, or correct faulty"),
        ("raise ModuleNotFoundError('needs another library')", "correct faulty"),
    ],
)
def test_a_module_that_is_there_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, remedy: str
) -> None:
    (tmp_path / "faulty.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AdarError, match=rf"; {remedy}$"):
        find_custom("loss.name", "faulty:build")
    for name in ("nowhere:build", "nowhere.at_all:build", "faulty_too:build"):
        with pytest.raises(AdarError, match="run from the folder of"):
            find_custom("loss.name", name)


def test_a_callable_that_takes_something_else_is_refused(components: None) -> None:
    with pytest.raises(
        AdarError, match=r"^train.callbacks my_components:hinge: cannot be called with the run"
    ):
        find_custom("train.callbacks", "my_components:hinge", takes=["the run"])
    assert find_custom("loss.name", "my_components:hinge").__name__ == "hinge"


def test_the_epoch_that_is_highest_in_an_own_metric_is_best(
    dataset: Dataset, tmp_path: Path, components: None
) -> None:
    settings = ("train.metric=my_components:early@5", "train.epochs=9", "train.patience=2")
    run = train(dataset, tmp_path / "run", quick("mf", *settings), workers=0)
    curve = [epoch.valid["my_components:early@5"] for epoch in run.epochs()]
    assert max(curve) < -1
    best = curve.index(max(curve)) + 1
    assert run.result().best_epoch == best
    assert len(curve) == min(9, best + 2)
    valid = evaluate(run, "valid", [5]).metrics
    assert valid["my_components:early@5"] == pytest.approx(max(curve))
    assert publish(run, tmp_path / "published").new == max(curve)
    searched = {"parameters": {"adar.beta": {"choice": [0.7]}}, "metric": "my_components:early@5"}
    space = Space.from_mapping(searched, "test")
    check(space)
    assert space.config({}).train.metric == "my_components:early@5"


def test_an_own_metric_of_workers_is_that_of_all_users(
    ray_cluster: None, dataset: Dataset, tmp_path: Path, components: None
) -> None:
    config = quick("mf", "train.metric=my_components:whose@1", "train.epochs=1")
    mean = np.unique(dataset.read_split("valid")[0]).mean()
    for workers in (0, 2):
        run = train(dataset, tmp_path / f"run-{workers}", config, workers=workers)
        assert run.result().valid["my_components:whose@1"] == pytest.approx(mean)


def test_systems_are_compared_by_an_own_metric(dataset: Dataset, tmp_path: Path, components: None) -> None:
    metric = "my_components:early@5"
    settings = [f"train.metric={metric}", *(f"{key}=8" for key in ("model.embedding_dim", "adar.pool"))]
    compared = compare(
        dataset,
        tmp_path / "out",
        models=["mf"],
        samplers=["uniform"],
        baselines=["popularity"],
        seeds=1,
        settings=[*settings, "train.epochs=1", "train.batch_size=512", "train.device=cpu"],
        workers=0,
    )
    systems = compared.splits["valid"].systems
    own, popularity = systems["mf-uniform"], systems["popularity"]
    run = Run.open(tmp_path / "out" / "runs" / "mf-uniform-0", trust=True).result()
    assert own.metrics[metric] == pytest.approx(run.valid[metric])
    assert popularity.metrics[metric] == pytest.approx(run.popularity[metric])
    # A smaller share of a number below 0 is better.
    assert (own.gain > 0) == (own.metrics[metric] > popularity.metrics[metric])


def test_looking_for_a_custom_component_leaves_the_search_path_as_it_is(components: None) -> None:
    before = sys.path[:]
    find_custom("loss.name", "my_components:hinge")
    with pytest.raises(AdarError):
        find_custom("loss.name", "nowhere:hinge")
    assert sys.path == before


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 60
