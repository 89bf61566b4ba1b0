"""The benchmarks import, their settings are valid, and the committed pages are those of the results."""

import importlib
import json
import math
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks
from adar_ray import evaluate
from adar_ray.adar import AdarSettings, SamplingContext
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.samplers.base import Negatives, Source
from adar_ray.training.run import Run
from benchmarks import record
from benchmarks.pages import _corrected, pages
from benchmarks.quality.cells import Cell, Outcome, tune_and_test
from benchmarks.quality.departures import DEPARTURES
from benchmarks.quality.hidden_positives import SAMPLERS, parts, percentiles
from benchmarks.quality.tables import TABLES, Effort, _cell_figures
from benchmarks.quality.variants import AnyTimestep, OneTimestep

MODULES = [
    module.name for module in pkgutil.walk_packages(benchmarks.__path__, "benchmarks.") if not module.ispkg
]
RESULTS = sorted(path.stem for path in record.RESULTS.glob("*.json"))


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_can_be_imported(name: str) -> None:
    importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_is_what_its_results_say(name: str) -> None:
    assert (record.RESULTS / name).read_text(encoding="utf-8") == pages()[name]


@pytest.mark.parametrize("name", RESULTS)
def test_keys_of_results_are_short_identifiers(name: str) -> None:
    result = record.read(name)
    assert result is not None
    assert [key for key in _keys(result.figures) if not re.fullmatch(r"[\w.@-]{1,40}", key)] == []


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


# A cell whose best trial was drawn when `adar.gamma` could be below 0.5, as its results note.
OLDER = {("softmax", "mf-beauty", "adar")}


@pytest.mark.parametrize("name", TABLES)
def test_every_point_of_a_grid_and_every_choice_in_a_table_is_a_valid_configuration(name: str) -> None:
    table, figures = TABLES[name], record.read_figures(f"quality_{name}")
    for model, data in table.cells():
        for point in table.effort_on(model, data).grid:
            load_config(settings=[*table.settings_on(model, data), *as_settings(point)])
        for sampler, row in figures.get(f"{model}-{data}", {"samplers": {}})["samplers"].items():
            settings = [*table.settings_on(model, data), *as_settings(row["chosen"])]
            if (name, f"{model}-{data}", sampler) in OLDER:
                with pytest.raises(
                    AdarError, match=r"adar\.gamma: Input should be greater than or equal to 0\.5"
                ):
                    load_config(settings=settings)
            else:
                load_config(settings=settings)


def outcome(trials: list[float], users: list[float]) -> Outcome:
    test = [{"recall@20": 0.5, "ndcg@20": 0.1}, {"recall@20": 0.5, "ndcg@20": 0.3}]
    return Outcome(max(trials), {}, trials, [], test, [3, 6], np.array(users))


def test_gain_significance_and_share_of_the_defaults_by_hand() -> None:
    table = TABLES["fair_softmax"]
    outcomes = {
        "uniform": outcome([0.2, 0.3], [0.3, 0.2, 0.4, 0.1]),
        "adar": outcome([0.34, 0.33, 0.38], [0.4, 0.2, 0.6, 0.0]),
    }
    figures = _cell_figures(outcomes, table, Effort(({}, {}), 1, 2, ()))
    t = 0.05 / (math.sqrt((0.05**2 + 0.05**2 + 0.15**2 + 0.15**2) / 3) / 2)
    below = 0.5 + (t / math.sqrt(3) / (1 + t**2 / 3) + math.atan(t / math.sqrt(3))) / math.pi  # 3 degrees
    assert figures["adar_gain"] == {"uniform": {"gain": "+20.0%", "p": round(2 * (1 - below), 2)}}
    assert figures["defaults_share"] == 0.5
    assert figures["missing"] == []
    row = figures["samplers"]["adar"]
    assert row["trial_values"] == [0.34, 0.33, 0.38]
    assert row["valid_ndcg@20"] == 0.38
    assert row["ndcg@20"] == f"0.2000 ± {math.sqrt(0.02):.4f}"
    assert row["best_epoch"] == 4.5


def test_p_values_are_corrected_for_all_cells_of_a_table() -> None:
    """Holm: the smallest times their number, the next times one less, and none below the one before."""
    gains = {"a": {"uniform": 0.01, "dns": 0.04}, "b": {"uniform": 0.03}}
    figures = {
        cell: {"adar_gain": {sampler: {"gain": "+1.0%", "p": p} for sampler, p in of_cell.items()}}
        for cell, of_cell in gains.items()
    }
    corrected = _corrected(SimpleNamespace(figures=figures))
    assert corrected["a"] == pytest.approx({"uniform": 0.03, "dns": 0.06})
    assert corrected["b"] == pytest.approx({"uniform": 0.06})


def test_a_cell_tests_its_best_trial_with_other_seeds(tmp_path, dataset: Dataset) -> None:
    cell = Cell(
        name="cell",
        sampler="dns",
        settings=("model.name=mf", "loss.name=bpr", "model.embedding_dim=4", "train.epochs=2"),
        grid=({"loss.l2": 1.0}, {"loss.l2": 1e-4}),
        own=({}, {"dns.candidates": 3}),
        space=TABLES["fair_pairwise"].space,
        draws=2,
        metric="ndcg@20",
    )
    found = tune_and_test(cell, dataset, tmp_path, seeds=2)
    files = sorted((tmp_path / "cells" / "cell").glob("*.json"))
    assert [file.stem for file in files] == ["draw-0", "draw-1", *(f"grid-{n}" for n in range(4))]
    kept = [json.loads(file.read_text()) for file in files]
    assert sorted(trial["valid"] for trial in kept) == sorted(found.trials)
    on_grid = max(kept[2:], key=lambda trial: trial["valid"])
    assert [draw["values"]["loss.l2"] for draw in kept[:2]] == [on_grid["values"]["loss.l2"]] * 2
    best = max(kept, key=lambda trial: trial["valid"])
    assert (found.valid, found.chosen) == (best["valid"], best["values"])
    runs = [Run.open(tmp_path / "cells" / "cell" / f"seed-{seed}") for seed in (1, 2)]
    assert [run.config.train.seed for run in runs] == [1, 2]
    assert [run.config.dns.candidates for run in runs] == [best["config"]["dns"]["candidates"]] * 2
    means = [evaluate(run, "test").metrics["ndcg@20"] for run in runs]
    assert means == pytest.approx([test["ndcg@20"] for test in found.test])
    assert found.users.mean() == pytest.approx(sum(means) / 2)
    assert found.users.shape == (runs[0].evaluations()["test"].users,)


def test_a_cell_without_more_seeds_tests_the_run_of_its_best_trial(tmp_path, dataset: Dataset) -> None:
    cell = Cell(
        name="cell",
        sampler="uniform",
        settings=("model.name=mf", "loss.name=bpr", "model.embedding_dim=4", "train.epochs=4"),
        grid=({"optimizer.lr": 0.003}, {"optimizer.lr": 0.3}),
        own=({},),
        space=TABLES["fair_pairwise"].space,
        draws=0,
        metric="ndcg@20",
    )
    folder = tmp_path / "cells" / "cell"
    found = tune_and_test(cell, dataset, tmp_path, seeds=0)
    runs = [Run.open(folder / f"grid-{n}") for n in range(2)]
    assert [run.config.uniform.negatives for run in runs] == [4, 4]  # the usual ones, not the default
    curves = [[epoch.valid["ndcg@20"] for epoch in run.epochs()] for run in runs]
    assert any(curve[-1] < max(curve) for curve in curves)
    assert found.trials == [max(curve) for curve in curves]
    assert found.valid == max(found.trials)
    best = runs[found.trials.index(found.valid)]
    assert best.config.train.seed == 0
    assert found.test == [evaluate(best, "test").metrics]
    assert found.best_epochs == [best.result().best_epoch]
    # Nothing runs again, unless it ran with another configuration.
    before = [run.folder.read_bytes("result.json") for run in runs]
    assert tune_and_test(cell, dataset, tmp_path, seeds=0).trials == found.trials
    assert [run.folder.read_bytes("result.json") for run in runs] == before
    tune_and_test(replace(cell, settings=(*cell.settings, "train.epochs=2")), dataset, tmp_path, seeds=0)
    for n in range(2):
        assert Run.open(folder / f"grid-{n}").config.train.epochs == 2
        assert json.loads((folder / f"grid-{n}.json").read_text())["epochs"] == 2


def as_settings(values: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_samplers_of_the_study_of_hidden_positives_are_valid(name: str) -> None:
    load_config(settings=SAMPLERS[name])


@pytest.mark.parametrize("name", DEPARTURES)
def test_settings_of_departures_are_valid(name: str) -> None:
    load_config(settings=["loss.name=bpr", *DEPARTURES[name].settings])


def test_negatives_are_taken_apart_into_positive_and_item() -> None:
    positive_BD, item_PD = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 9.0], [0.0, 2.0]])
    source = Source(torch.tensor([5, 7]), item_PD, torch.tensor([[1]]))
    mask_BK, item_BKD = torch.ones(1, 1, dtype=torch.bool), item_PD[None, 1:]
    mixed = Negatives(0.25 * positive_BD[:, None] + 0.75 * item_BKD, mask_BK, source=source)
    diffused = Negatives(item_BKD, mask_BK, timestep_BK=torch.tensor([[1 / 3]]), source=source)
    plain = Negatives(item_BKD, mask_BK, item_BK=torch.tensor([[7]]))
    thirty_degrees = (3**0.5 / 2, 0.5)
    for negatives, weights in ((mixed, (0.25, 0.75)), (diffused, thirty_degrees), (plain, (0, 1))):
        item_BK, *found = parts(negatives, positive_BD)
        assert item_BK.tolist() == [[7]]
        assert [weight_BK.item() for weight_BK in found] == pytest.approx(weights)


def test_items_that_are_as_popular_have_the_same_percentile() -> None:
    assert percentiles(torch.tensor([5, 0, 5, 9])).tolist() == [0.5, 0.125, 0.5, 0.875]


def test_a_result_is_written_with_what_it_depends_on(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["a.py", "--work", "/home/somebody/scratch", "--data=/data/x", "y/z"])
    record.write("a", {"ndcg@20": 0.5}, description="A figure.", seeds=[0, 1])
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["figures"] == {"ndcg@20": 0.5}
    assert content["seeds"] == [0, 1]
    assert content["command"].endswith("--work scratch --data=x y/z")
    assert {"python", "torch", "ray", "numpy", "adar-ray"} == set(content["environment"]["versions"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_rerun_keeps_the_notes_of_a_result(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.write("a", {"x": 1}, description="A figure.", seeds=[0])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"notes": ["Beside other load."]}))
    assert record.write("a", {"x": 2}, description="A figure.", seeds=[0]).notes == ["Beside other load."]


def test_ablations_stop_where_they_say() -> None:
    draw = torch.Generator().manual_seed(0)
    user_BD, item_ID = (torch.randn(rows, 8, generator=draw) for rows in (50, 90))
    context, settings = SamplingContext(lambda item: item_ID[item], 90), AdarSettings()
    one, any_ = (
        sampler(user_BD, user_BD, context).timestep_BK
        for sampler in (OneTimestep(0.4, settings), AnyTimestep(settings))
    )
    assert one.unique().tolist() == pytest.approx([0.4])
    assert torch.histc(any_, 4, 0, 1).min() > 20
