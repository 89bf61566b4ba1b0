"""One cell of a table: a sampler tuned on validation with as many trials as all others, tested over seeds.

First what all samplers have in common is tuned on a grid, each sampler at its own usual values; then, at
the best of these, the sampler's own parameters are drawn at random from a space. The best of all trials on
validation is trained again with other seeds, and each of these runs ranks test once; where runs are too dear
for that, the trial's own run does. All of it lies in folders under the work folder, a run each, so that an
interrupted table goes on with what is missing; what was run with another configuration is run anew. A cell's
trials may be shared out among machines: each is a JSON that says where it ran.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import evaluate, resume, train
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.metrics import ranking_metrics
from adar_ray.ranking.top_items import top_items
from adar_ray.training.run import Run
from adar_ray.tuning.spaces import Space

FIRST = {
    "uniform": {"sampler.negatives": 4},
    "popularity": {"sampler.negatives": 4},
    "ahns": {"sampler.candidates": 32},
}
"""A sampler's own values on the grid, where they are not the library's defaults.

AHNS's are its authors'; plain negatives cost little, and are as many as ADAR's.
"""


@dataclass(frozen=True)
class Cell:
    """A model, a data set and a sampler.

    Attributes:
        name: of its folder.
        settings: `section.key=value` for all trials.
        grid: points that every sampler tries first, values by `section.key`.
        space: what the sampler's own parameters are drawn from.
        draws: how many trials these are.
        metric: what trials are chosen by.
    """

    name: str
    sampler: str
    settings: tuple[str, ...]
    grid: tuple[dict[str, Any], ...]
    space: Path
    rng: int
    metric: str


def grid(**points: Sequence[Any]) -> tuple[dict[str, Any], ...]:
    """All combinations; a key's dot is written as two underscores."""
    names = [name.replace("__", ".") for name in points]
    return tuple(dict(zip(names, values, strict=True)) for values in product(*points.values()))


def outcome(cell: Cell, dataset: Dataset, work: Path, seeds: int) -> dict[str, Any]:
    """What came of a cell: validation of every trial, test of every seed, NDCG of every user on test.

    Args:
        seeds: beside that of the trials; with none, the best trial's run is tested.
    """
    folder = work / "cells" / cell.name

    def trial(name: str, values: dict[str, Any]) -> dict[str, Any]:
        return _trial(cell, dataset, folder / name, values, keep_run=not seeds)

    own = {"sampler.name": cell.sampler, **FIRST.get(cell.sampler, {})}
    tried = [trial(f"grid-{n}", own | point) for n, point in enumerate(cell.grid)]
    common = {name: _best(tried)["values"][name] for name in cell.grid[0]}
    tried += [trial(f"draw-{n}", drawn | common) for n, drawn in enumerate(_draws(cell))]
    best = _best(tried)
    tested = [folder / f"seed-{seed}" for seed in range(1, seeds + 1)] or [folder / best["name"]]
    runs = []
    for seed, run_folder in enumerate(tested, start=1 if seeds else 0):  # seed 0 has chosen
        config = _config(cell, best["values"] | {"train.seed": seed})
        run = _finished(run_folder, config, dataset)
        result = run.result()
        runs.append(
            {
                "test": _test(run),
                "best epoch": result["best_epoch"],
                "users": _users(run, cell.metric),
            }
        )
    return {
        "valid": best["valid"],
        "values": best["values"],
        "trials": [trial["valid"] for trial in tried],
        "environments": [trial["environment"] for trial in tried],
        "runs": runs,
    }


def mean_and_deviation(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def user_means(result: dict[str, Any]) -> np.ndarray:
    """Each user's metric, mean over seeds."""
    return np.mean([run["users"] for run in result["runs"]], axis=0)


def _best(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["valid"])


def _draws(cell: Cell) -> list[dict[str, Any]]:
    """Random points of the sampler's own part of the space, the same on every data set."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space, points = Space.load(cell.space), []
    for _ in range(cell.rng):
        study.enqueue_trial({"sampler.name": cell.sampler})
        points.append(space.suggest(study.ask()))
    return points


def _trial(
    cell: Cell, dataset: Dataset, folder: Path, values: dict[str, Any], keep_run: bool
) -> dict[str, Any]:
    config, written = _config(cell, values), folder.with_suffix(".json")
    kept = json.loads(written.read_text()) if written.exists() else None
    if kept is None or load_config(values=kept["config"]) != config:
        run = _finished(folder, config, dataset)
        valid = max(record["valid"][cell.metric] for record in run.epochs())
        kept = {
            "values": values,
            "valid": valid,
            "epochs": len(run.epochs()),
            "config": config.model_dump(),
            "environment": environment(),
        }
        written.write_text(json.dumps(kept))
        if not keep_run:
            run.folder.remove()
    return kept | {"name": folder.name}


def _config(cell: Cell, values: dict[str, Any]) -> Config:
    chosen = [f"{name}={value}" for name, value in values.items()]
    return load_config(settings=[*cell.settings, f"train.metric={cell.metric}", *chosen])


def _finished(folder: Path, config: Config, dataset: Dataset) -> Run:
    if folder.exists() and Run.open(folder).config == config:
        return resume(folder)
    return train(dataset, folder, config, workers=0, replace=True)


def _test(run: Run) -> dict[str, float]:
    return (run.evaluations().get("test") or evaluate(run))["metrics"]


def _users(run: Run, metric: str) -> np.ndarray:
    """The metric of each user who has test interactions."""
    trained = TrainedModel.load(run)
    known, truth = user_items(trained.dataset, "train", "valid"), user_items(trained.dataset, "test")
    user, k = truth.counts().nonzero()[:, 0], int(metric.partition("@")[2])
    history = trained.history("train", "valid")
    parts = [
        ranking_metrics(truth.contains(user_B, item_Bk), truth.counts()[user_B], [k])[metric].numpy()
        for user_B, item_Bk, _ in top_items(trained.model, user, known, k, truth.n_items, history)
    ]
    return np.concatenate(parts)
