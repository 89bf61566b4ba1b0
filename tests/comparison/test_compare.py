"""Comparisons from end to end, in this process, on small data."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import ttest_rel

from adar_ray.baselines import item_to_item
from adar_ray.comparison import work
from adar_ray.comparison.compare import _figures, _user_groups, compare
from adar_ray.comparison.folder import Comparison
from adar_ray.comparison.report import read_comparison
from adar_ray.comparison.users import _groups
from adar_ray.comparison.work import Outcome
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.interactions.user_items import UserItems
from adar_ray.ranking.groups import group_by
from adar_ray.reporting.run_report import recommended
from adar_ray.storage import Folder
from tests import sealed
from tests.data.making import make_split
from tests.reporting.made import Page

SETTINGS = (
    "model.embedding_dim=8",
    "adar.pool=16",
    "train.batch_size=512",
    "train.epochs=2",
    "train.device=cpu",
)
WHAT: dict[str, Any] = {
    "models": ["mf"],
    "samplers": ["uniform", "adar"],
    "baselines": ["popularity", "ease"],
    "seeds": 2,
    "settings": SETTINGS,
    "workers": 0,
    "test": True,
}
RUNS = ["mf-adar-0", "mf-adar-1", "mf-uniform-0", "mf-uniform-1"]


@pytest.fixture(scope="module")
def out(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "comparison"
    compare(dataset, out, **WHAT)
    return out


def comparison(out: Path) -> Comparison:
    return Folder.at(out).read_record("comparison.json", Comparison)


def users(out: Path, split: str, name: str) -> dict[str, np.ndarray]:
    table = pq.read_table(out / "users" / split / f"{name}.parquet")
    return {column: table[column].to_numpy() for column in table.column_names}


def contents(folder: Path) -> dict[str, bytes]:
    """What may not change: all but times, and what `evaluate` adds to runs."""
    files = (path for path in folder.rglob("*") if path.suffix in (".json", ".md", ".tex", ".parquet"))
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != "result.json" and path.parent.name != "evaluation"
    }


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(("base", "gain"), [(0.2, 0.5), (-0.2, 2.5), (0.0, None)])
def test_a_gain_is_a_share_of_the_references_figure_whatever_its_sign(
    base: float, gain: float | None
) -> None:
    """A metric of the user's own may be below 0: 0.3 is above -0.2."""
    value_U = {"reference": np.array([base - 0.1, base + 0.1]), "other": np.array([0.1, 0.5])}
    outcomes = {
        name: [{"valid": Outcome({"own@5": float(own_U.mean())}, own_U)}] for name, own_U in value_U.items()
    }
    split = SimpleNamespace(name="valid", key_U=["ann", "bob"], groups_U={})
    systems = _figures(split, outcomes, "reference", "own@5").systems
    assert systems["reference"].gain is None
    assert systems["other"].gain == (None if gain is None else pytest.approx(gain))


def test_users_are_grouped_by_the_mean_popularity_of_what_they_take() -> None:
    users_of = [range(9), range(6), [9]]  # of each item
    pairs = [(user, item) for item, users in enumerate(users_of) for user in users]
    observed = UserItems(*torch.tensor(pairs).T, 10, 3)
    truth = UserItems(torch.tensor([0, 1, 1, 2, 4]), torch.tensor([2, 0, 2, 1, 0]), 10, 3)
    groups = _groups(observed, truth, np.array([0, 1, 2, 4]))["popularity"]
    assert groups.bounds == [(1, 1), (5, 5), (6, 6), (9, 9)]
    assert groups.of_N.tolist() == [0, 1, 2, 3]


def test_the_reference_is_what_is_best_on_validation_whatever_test_says(tmp_path: Path) -> None:
    """Popularity finds p on validation; of c on test only the neighbors of a and b tell."""
    train = {f"a{n}": "ab" for n in range(5)} | {f"b{n}": "abc" for n in range(5)}
    train |= {f"p{n}": "pr" for n in range(12)}
    held_out = [f"a{n}" for n in range(5)]
    splits = {"train": train, "valid": dict.fromkeys(held_out, "p"), "test": dict.fromkeys(held_out, "c")}
    data = make_split(tmp_path / "data", "prabc", **splits)
    found = compare(
        data,
        tmp_path / "out",
        models=["mf"],
        samplers=["uniform"],
        baselines=["itemknn", "popularity"],
        seeds=1,
        settings=[*SETTINGS, "train.epochs=1", "train.metric=recall@1"],
        workers=0,
        test=True,
    )
    reached = {
        split: {name: figures.systems[name].metrics["recall@1"] for name in ("popularity", "itemknn")}
        for split, figures in found.splits.items()
    }
    assert reached["valid"] == {"popularity": 1, "itemknn": 0}
    assert reached["test"] == {"popularity": 0, "itemknn": 1}
    assert found.reference == "popularity"


def test_only_users_with_a_number_for_every_system_count_in_a_group() -> None:
    groups = group_by(torch.tensor([1, 1, 1, 5, 9, 9]), 3)
    value_U = {
        "one": np.array([0.1, np.nan, 0.4, np.nan, 0.3, 0.4]),
        "other": np.array([0.2, 0.3, 0.2, 0.7, 0.5, np.nan]),
    }
    first, last = _user_groups(groups, value_U)  # of the middle one nobody counts
    assert (first.first, first.last, first.users) == (1, 1, 2)
    assert first.figures == pytest.approx({"one": 0.25, "other": 0.2})
    assert (last.first, last.last, last.users) == (9, 9, 1)
    assert last.figures == {"one": 0.3, "other": 0.5}


@pytest.mark.parametrize("split", ["valid", "test"])
def test_figures_are_those_of_evaluate(out: Path, split: str) -> None:
    figures = comparison(out).splits[split]
    assert list(figures.systems) == ["popularity", "ease", "mf-uniform", "mf-adar"]
    for system in ("mf-uniform", "mf-adar"):
        runs = [evaluate(out / "runs" / f"{system}-{seed}", split, [10, 20]) for seed in (0, 1)]
        assert figures.users == runs[0].users
        for name, value in figures.systems[system].metrics.items():
            values = [run.metrics[name] for run in runs]
            assert value == pytest.approx(np.mean(values), rel=1e-12)
            assert figures.systems[system].deviations[name] == pytest.approx(np.std(values, ddof=1))
    popularity = sealed.read(out / "runs" / "mf-adar-0" / "result.json")["popularity"]
    for name, value in comparison(out).splits["valid"].systems["popularity"].metrics.items():
        assert value == pytest.approx(popularity[name], rel=1e-12)


def test_the_page_shows_what_each_system_recommends_to_the_same_users(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    assert "What is recommended in test" in page.texts("h2")
    samples = evaluate(out / "runs" / "mf-adar-0", "test").samples
    cells = page.texts("td")
    shown = [after for system, after in pairwise(cells) if system == "mf-adar"]
    assert shown[-len(samples) :] == [recommended(sample) for sample in samples]
    told = [text for text in page.texts("p") if text.startswith("User ")]
    assert [text.split()[1].rstrip(",") for text in told] == [sample.user for sample in samples]


def test_figures_of_users_have_their_keys_and_add_up(out: Path, dataset: Dataset) -> None:
    figures = comparison(out).splits["test"]
    whole = pq.read_table(out / "users" / "test")  # as any reader of Parquet takes the folder
    assert whole.num_rows == figures.users * (len(RUNS) + 2)
    keys = set(dataset.user_keys().to_pylist())
    for name in ("ease", *RUNS):
        own = users(out, "test", name)
        assert len(set(own["user"])) == figures.users
        assert set(own["user"]) <= keys
        system, _, seed = name.rpartition("-") if name != "ease" else (name, "", None)
        assert set(own["system"]) == {system}
        assert np.isnan(own["seed"]).all() if seed is None else set(own["seed"]) == {int(seed)}
    ease = users(out, "test", "ease")
    assert ease["ndcg@20"].mean() == pytest.approx(figures.systems["ease"].metrics["ndcg@20"])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_all_are_tested_against_the_baseline_that_is_best_on_validation(out: Path, split: str) -> None:
    result, metric = comparison(out), "ndcg@20"
    valid = result.splits["valid"].systems
    assert result.metric == metric
    assert result.reference == max(("popularity", "ease"), key=lambda name: valid[name].metrics[metric])
    figures = result.splits[split].systems
    values = {name: users(out, split, name)[metric] for name in ("popularity", "ease")}
    for system in ("mf-uniform", "mf-adar"):
        values[system] = sum(users(out, split, f"{system}-{seed}")[metric] for seed in (0, 1)) / 2
    reference = values.pop(result.reference)
    p = {name: float(ttest_rel(value, reference).pvalue) for name, value in values.items()}
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        assert figures[name].p == pytest.approx(p[name])
        assert figures[name].p_holm >= min(1, (3 - rank) * p[name]) * (1 - 1e-9)
        assert figures[name].gain == pytest.approx(values[name].mean() / reference.mean() - 1)
    assert figures[result.reference].p is None


def test_the_same_command_trains_and_measures_nothing_anew(
    out: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(out)
    for name in ("train", "resume", "TrainedModel", "BASELINES"):
        monkeypatch.setattr(work, name, None)
    told: list[str] = []
    compare(dataset, out, **WHAT, on_progress=lambda done, total, text: told.append(f"{done}/{total} {text}"))
    assert contents(out) == before
    assert told[-1].startswith("6/6 mf-adar, seed 1: ndcg@20 0.")


@pytest.mark.parametrize("at", ["ease: ndcg@20", "mf-uniform, seed 0: epoch 1", "mf-adar, seed 1: training"])
def test_an_interrupted_comparison_continues(out: Path, dataset: Dataset, tmp_path: Path, at: str) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if text.startswith(at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(dataset, tmp_path / "out", **WHAT, on_progress=stop)
    assert not (tmp_path / "out" / "comparison.json").exists()
    compare(dataset, tmp_path / "out", **WHAT)
    ours, expected = contents(tmp_path / "out"), contents(out)
    assert ours.keys() == expected.keys()
    for name in ("comparison.json", "table.md", "table.tex"):
        assert ours[name] == expected[name]


def test_a_comparison_may_get_more_systems(dataset: Dataset, tmp_path: Path) -> None:
    less = {**WHAT, "samplers": ["uniform"], "baselines": [], "seeds": 1, "test": False}
    first = compare(dataset, tmp_path / "out", **less)
    assert first.reference == "mf-uniform"
    assert list(first.splits) == ["valid"]
    weights = tmp_path / "out" / "runs" / "mf-uniform-0" / "model" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    more = {**less, "models": ["mf", "gru4rec"], "reference": "gru4rec-uniform", "test": True}
    second = compare(dataset, tmp_path / "out", **more)
    assert second.reference == "gru4rec-uniform"
    assert weights.stat().st_mtime_ns == written
    for split in ("valid", "test"):
        figures = second.splits[split].systems
        assert list(figures) == ["mf-uniform", "gru4rec-uniform"]
        found = evaluate(tmp_path / "out" / "runs" / "gru4rec-uniform-0", split, [20])  # it reads histories
        assert figures["gru4rec-uniform"].metrics["ndcg@20"] == pytest.approx(found.metrics["ndcg@20"])


def test_a_comparison_that_was_asked_for_more_is_not_finished(dataset: Dataset, tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if text.startswith("mf-uniform, seed 1"):
            raise KeyboardInterrupt

    out = Folder.at(tmp_path / "out")
    less = {**WHAT, "samplers": ["uniform"], "baselines": [], "seeds": 1, "test": False}
    compare(dataset, out.path, **less)
    read_comparison(out)
    with pytest.raises(KeyboardInterrupt):
        compare(dataset, out.path, **{**less, "seeds": 2}, on_progress=stop)
    assert re.search("is not finished; .*--seeds 2", message_of(lambda: read_comparison(out)))
    compare(dataset, out.path, **less)
    assert read_comparison(out)[1].splits["valid"].systems["mf-uniform"].runs == 1


def test_a_metric_whose_code_has_changed_is_measured_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "changing_metric.py"
    code = """
def hits(dataset, config):
    return lambda user_B, item_Bk, hit_Bk, relevant_B: 1 * hit_Bk.sum(1).where(user_B % 2 == 0, float("nan"))
"""
    module.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    what = {**WHAT, "samplers": ["uniform"], "baselines": ["popularity"], "seeds": 1, "test": False}
    what["settings"] = [*WHAT["settings"], "train.metric=changing_metric:hits@10"]
    first = compare(dataset, tmp_path / "out", **what).splits["valid"]
    module.write_text(code.replace("1 *", "3 *"))
    monkeypatch.delitem(sys.modules, "changing_metric")
    second = compare(dataset, tmp_path / "out", **what).splits["valid"]
    for system, figures in second.systems.items():
        assert figures.metrics["changing_metric:hits@10"] == pytest.approx(
            3 * first.systems[system].metrics["changing_metric:hits@10"]
        )
    table = users(tmp_path / "out", "valid", "popularity")
    counting = int((~np.isnan(table["changing_metric:hits@10"])).sum())
    assert counting < second.users
    assert all(sum(group.users for group in groups) == counting for groups in second.groups.values())


def test_a_baseline_that_is_too_large_is_left_out_and_counted(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_to_item, "EASE_ITEMS", 100)
    told: list[str] = []
    less = {**WHAT, "samplers": ["uniform"], "seeds": 1, "test": False}
    result = compare(
        dataset, tmp_path / "out", **less, on_progress=lambda done, total, text: told.append(text)
    )
    reason = f"ease: inverts a matrix of items by items, which takes too long with {dataset.n_items}; "
    assert result.left_out == {"ease": f"{reason}it takes at most 100 items"}
    assert list(result.splits["valid"].systems) == ["popularity", "mf-uniform"]
    assert any(line.startswith(reason) and line.endswith("left out") for line in told)
    assert "ease was left out: inverts" in (tmp_path / "out" / "table.md").read_text()
    message = message_of(lambda: compare(dataset, tmp_path / "out", **less, reference="ease"))
    assert message.startswith(reason)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"models": ["mff"]}, "there is no model 'mff'; did you mean mf?"),
        ({"samplers": ["adra"]}, "there is no sampler 'adra'; did you mean adar?"),
        ({"samplers": []}, "--samplers: names nothing"),
        ({"baselines": ["eas"]}, "--baselines eas: there is no such baseline; did you mean ease?"),
        ({"reference": "mf-adra"}, "--reference mf-adra: is not compared; did you mean mf-adar?"),
        ({"settings": ["model.name=mf"]}, "--set model.name=mf: name what is compared with --models"),
        ({"settings": ["train.epoch=2"]}, "--set train.epoch=2: there is no key train.epoch"),
        ({"samplers": ["uniform", "all"]}, "goes only with loss.name cross_entropy"),
        ({"seeds": 0}, "--seeds 0: give 1 to 1,000"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    assert problem in message_of(lambda: compare(dataset, tmp_path / "out", **{**WHAT, **change}))
    assert not (tmp_path / "out").exists()


def test_without_validation_there_is_nothing_to_compare_by(hand_made: Path, tmp_path: Path) -> None:
    data = prepare(hand_made, tmp_path / "data", split="ratio", valid_fraction=0)
    message = message_of(lambda: compare(data, tmp_path / "out", **WHAT))
    assert message.startswith(f"{tmp_path / 'data'}: has no interactions in valid to compare by")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(
    out: Path, dataset: Dataset, tmp_path: Path
) -> None:
    before = contents(out)
    other = {**WHAT, "settings": [*SETTINGS, "optimizer.lr=0.5"]}
    message = message_of(lambda: compare(dataset, out, **other))
    assert message.startswith(f"{out}/runs/mf-uniform-0: was trained with other settings (optimizer.lr); ")
    golden = Path(__file__).parents[1] / "golden" / "data"
    assert "holds a comparison on another dataset" in message_of(lambda: compare(golden, out, **WHAT))
    assert contents(out) == before
    (tmp_path / "mine.txt").touch()
    assert "not a comparison" in message_of(lambda: compare(dataset, tmp_path, **WHAT))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
