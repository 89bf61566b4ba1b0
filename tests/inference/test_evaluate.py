"""What `evaluate` says beside the metrics that test_inference.py checks."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import ttest_rel

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.inference.recommender import load
from adar_ray.inference.samples import middle_users
from adar_ray.training.records import Evaluation
from adar_ray.training.run import Run
from adar_ray.training.trainer import train
from tests.data.making import with_times
from tests.inference.saving import save_untrained

KS = [1, 5, 20]
TINY = ["model.name=mf", "model.embedding_dim=4", "train.epochs=1", "train.device=cpu", "adar.pool=8"]


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(dataset, tmp_path_factory.mktemp("evaluate") / "run", load_config(settings=TINY), workers=0)


@pytest.fixture(scope="module")
def found(run: Run) -> Evaluation:
    return evaluate(run, ks=KS)


def counts(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Interactions of each user and of each item."""
    user_E, item_E = dataset.read_split(split)
    return np.bincount(user_E, minlength=dataset.n_users), np.bincount(item_E, minlength=dataset.n_items)


def test_a_sample_is_the_user_in_the_middle_of_a_group() -> None:
    """Of two in the middle the one with the lower number; of equal numbers the lower id."""
    user_U = torch.tensor([10, 11, 12, 13, 14, 15, 16, 17])
    number_U, group_U = torch.tensor([5, 3, 9, 1, 20, 20, 20, 40]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    assert middle_users(user_U, number_U, group_U).tolist() == [11, 15, 17]


def test_lists_are_measured_at_every_cutoff_that_has_pairs(found: Evaluation) -> None:
    for name in ("novelty", "gini", "miscalibration"):
        assert all(found.metrics[f"{name}@{k}"] > 0 for k in KS)
    assert {name for name in found.metrics if name.startswith("diversity")} == {"diversity@5", "diversity@20"}
    assert 0.5 < found.metrics["diversity@20"] < 1


def test_groups_have_all_users_and_items_once(found: Evaluation, dataset: Dataset) -> None:
    assert list(found.groups) == ["activity", "popularity"]
    users_by_count, items_by_count = counts(dataset, "train")
    is_asked = counts(dataset, "test")[0] > 0
    for name, numbers in (("activity", users_by_count[is_asked]), ("popularity", items_by_count)):
        groups = found.groups[name]
        assert len(groups) == {"activity": 4, "popularity": 3}[name]
        for group, after in zip(groups, [*groups[1:], None], strict=True):
            assert group.size == ((group.first <= numbers) & (numbers <= group.last)).sum()
            assert after is None or group.last < after.first
        assert sum(group.size for group in groups) == len(numbers)
    activity = found.groups["activity"]
    mean = sum(group.users * group.metrics["recall@20"] for group in activity) / found.users
    assert mean == pytest.approx(found.metrics["recall@20"])
    assert sum(group.metrics["share@20"] for group in found.groups["popularity"]) == pytest.approx(1)


def test_the_metrics_of_each_user(found: Evaluation, run: Run, dataset: Dataset) -> None:
    table = pq.read_table(run.folder.join("evaluation/test.parquet"))
    is_asked = counts(dataset, "test")[0] > 0
    keys = np.array(dataset.user_keys().to_pylist())
    assert table["user"].to_pylist() == keys[is_asked].tolist()
    for name in ("recall@5", "ndcg@20"):
        assert table[name].to_numpy().mean() == pytest.approx(found.metrics[name], rel=1e-6)


def test_popularity_is_ranked_and_tested_beside_the_model(
    found: Evaluation, run: Run, dataset: Dataset
) -> None:
    popularity_I, is_asked = counts(dataset, "train")[1], counts(dataset, "test")[0] > 0
    seen, relevant = np.zeros((2, dataset.n_users, dataset.n_items), dtype=bool)
    for split in ("train", "valid"):
        seen[dataset.read_split(split)] = True
    relevant[dataset.read_split("test")] = True
    # The sort is stable: of items that are as popular, the first comes first.
    order_UI = np.argsort(np.where(seen, 0, -popularity_I), axis=1, kind="stable")
    recall_U = np.take_along_axis(relevant, order_UI[:, :5], axis=1).sum(1)[is_asked]
    recall_U = recall_U / relevant.sum(1)[is_asked]
    assert found.popularity["recall@5"] == pytest.approx(recall_U.mean())
    assert found.popularity.keys() == {name for name in found.metrics if name in found.popularity}
    model_U = pq.read_table(run.folder.join("evaluation/test.parquet"))["recall@5"].to_numpy()
    assert found.popularity_p["recall@5"] == pytest.approx(ttest_rel(model_U, recall_U).pvalue, rel=1e-4)


def test_samples_show_a_user_of_each_group(found: Evaluation, run: Run, dataset: Dataset) -> None:
    user_of = {key: user for user, key in enumerate(dataset.user_keys().to_pylist())}
    keys, activity = dataset.item_keys().to_pylist(), counts(dataset, "train")[0]
    known = [list(zip(*dataset.read_split(split), strict=True)) for split in ("train", "valid")]
    relevant = set(zip(*dataset.read_split("test"), strict=True))
    recommender = load(run)
    assert len(found.samples) == 4
    for sample, group in zip(found.samples, found.groups["activity"], strict=True):
        user = user_of[sample.user]
        assert group.first <= activity[user] <= group.last
        assert sample.history == [keys[item] for split in known for u, item in split if u == user][-5:]
        # Test items are what `recommend` leaves out in addition.
        candidates = [
            key for item, key in enumerate(keys) if all((user, item) not in split for split in known)
        ]
        top = recommender.recommend(sample.user, 5, exclude_seen=False, candidates=candidates)
        assert sample.items == [item for item, _ in top]
        assert sample.hits == [(user, keys.index(item)) in relevant for item in sample.items]


def test_users_by_when_they_came(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    dated = with_times(dataset)
    folder = tmp_path / "run"
    shutil.copytree(run.folder.path, folder)
    shutil.rmtree(folder / "model")
    save_untrained(folder / "model", dated, TINY)
    cohorts = evaluate(folder, ks=[5]).groups["cohort"]
    first_U = dated.first_times()[counts(dataset, "test")[0] > 0]
    assert sum(group.size for group in cohorts) == len(first_U)
    for group in cohorts:
        from_, to = (
            datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
            for text in (group.first, group.last)
        )
        assert group.size == ((first_U // 10**9 >= from_) & (first_U // 10**9 <= to)).sum()
    assert cohorts[0].first == datetime.fromtimestamp(int(first_U.min() // 10**9), timezone.utc).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


METRICS = """
import torch


def odd(dataset, config):
    assert config.model.name == "mf"
    is_odd_I = torch.tensor([int(key) % 2 == 1 for key in dataset.item_keys().to_pylist()])

    def metric(user_B, item_Bk, hit_Bk, relevant_B):
        return is_odd_I[item_Bk].double().sum(1) * 100

    return metric


def no_numbers(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: hit_Bk


def infinite(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: 1 / hit_Bk.sum(1)


def huge(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: torch.full((len(user_B),), -1e12)


def for_nobody(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: torch.full((len(user_B),), torch.nan)


def complex_numbers(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: torch.ones(len(user_B), dtype=torch.complex64)


def raises(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: {}["x"]


def three(dataset, config):
    return 3


def largest(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: torch.full((len(user_B),), 2.0**30)


def in_place(dataset, config):
    def metric(user_B, item_Bk, hit_Bk, relevant_B):
        for tensor in (user_B, item_Bk, hit_Bk, relevant_B):
            tensor.zero_()
        return relevant_B

    return metric
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(METRICS)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_own_metric_is_measured_like_the_others(run: Run, dataset: Dataset, module: None) -> None:
    found = evaluate(run, ks=[5], metrics=["my_metrics:odd"])
    name = "my_metrics:odd@5"
    assert 0 < found.metrics[name] < 500
    table = pq.read_table(run.folder.join("evaluation/test.parquet"))
    assert table[name].to_numpy().mean() == pytest.approx(found.metrics[name])
    assert all(name in group.metrics for group in found.groups["activity"])


def test_an_own_metric_that_works_in_place_changes_nothing_else(run: Run, module: None) -> None:
    names = ["my_metrics:in_place", "my_metrics:odd", "my_metrics:largest"]
    alone, beside = evaluate(run, ks=[1, 5], metrics=names[1:]), evaluate(run, ks=[1, 5], metrics=names)
    own = {f"my_metrics:in_place@{k}" for k in (1, 5)}
    assert {name: value for name, value in beside.metrics.items() if name not in own} == alone.metrics
    assert beside.samples == alone.samples
    for by, groups in alone.groups.items():
        for group, other in zip(groups, beside.groups[by], strict=True):
            assert group.metrics == {name: v for name, v in other.metrics.items() if name not in own}
    assert beside.metrics["my_metrics:largest@5"] == 2**30


def test_the_metric_on_the_page(
    run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "custom.md").read_text(encoding="utf-8")
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def spread" in block
    ]
    (tmp_path / "spread_metric.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = "spread_metric:spread"
    found = evaluate(run, "valid", [1, 5], metrics=[name]).metrics
    assert found[f"{name}@1"] == 1
    assert 1 < found[f"{name}@5"] <= 5


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("recall", "name it as module:callable"),
        ("my_metrics:nothing", "cannot be imported"),
        ("my_metrics:no_numbers", "does not return a tensor with a number for each user"),
        ("my_metrics:complex_numbers", "does not return a tensor with a number for each user"),
        ("my_metrics:infinite", "returns numbers beyond"),
        ("my_metrics:huge", "returns numbers beyond"),
        ("my_metrics:for_nobody", "is NaN for every user"),
        ("my_metrics:raises", "KeyError: 'x'"),
        ("my_metrics:three", "returns a int, not a function"),
    ],
)
def test_an_own_metric_that_is_none_is_refused_by_its_name(
    run: Run, module: None, metric: str, problem: str
) -> None:
    before = run.evaluations()
    with pytest.raises(AdarError, match=problem) as caught:
        evaluate(run, ks=[5], metrics=[metric])
    assert str(caught.value).startswith(f"metric {metric}: ")
    assert run.evaluations() == before
