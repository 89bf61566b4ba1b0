"""One cell of a table: a sampler tuned on validation with as many trials as all others, tested over seeds.

Trials are drawn at random from tune_spaces/samplers.yaml, the same budget for every sampler. The best on
validation is trained again with other seeds, and each of these runs ranks test once. All of it lies in
folders under the work folder, a run each, so that a table that was interrupted goes on with what is missing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from adar_ray import evaluate, prepare, resume, train
from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.metrics import ranking_metrics
from adar_ray.ranking.top_items import top_items
from adar_ray.training.run import Run
from adar_ray.tuning.spaces import Space

SPACE = Path(__file__).parents[2] / "tune_spaces" / "samplers.yaml"


@dataclass(frozen=True)
class Cell:
    """A model, a data set and a sampler.

    Attributes:
        settings: `section.key=value` for all trials of the cell.
        metric: what trials are chosen by.
    """

    model: str
    data: str
    sampler: str
    settings: tuple[str, ...]
    metric: str = "ndcg@20"

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}-{self.sampler}"


def dataset_of(name: str, sources: Path, work: Path, **options: Any) -> Dataset:
    """The data set, prepared with a tenth of its training interactions for validation."""
    out = work / "data" / name
    return Dataset.open(out) if out.exists() else prepare(sources / name, out, valid_fraction=0.1, **options)


def outcome(cell: Cell, dataset: Dataset, work: Path, trials: int, seeds: int) -> dict[str, Any]:
    """What came of a cell: validation of every trial, test of every seed, NDCG of every user on test."""
    folder = work / "cells" / cell.name
    tried = [_trial(cell, dataset, folder, number) for number in range(trials)]
    best = max(tried, key=lambda trial: trial["valid"])
    config = _config(cell, best["values"])
    runs = []
    for seed in range(1, seeds + 1):  # seed 0 has chosen
        seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        run = _finished(folder / f"seed-{seed}", seeded, dataset)
        result = run.result()
        runs.append(
            {
                "test": _test(run),
                "best epoch": result["best_epoch"],
                "seconds an epoch": result["train_seconds"] / result["epochs"],
                "users": _users(run, cell.metric),
            }
        )
    return {
        "valid": best["valid"],
        "values": best["values"],
        "trials": [trial["valid"] for trial in tried],
        "runs": runs,
    }


def suggestions(sampler: str, trials: int) -> list[dict[str, Any]]:
    """The trials of a sampler: random points of its own part of the space, the same on every data set."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space, points = Space.load(SPACE), []
    for _ in range(trials):
        study.enqueue_trial({"sampler.name": sampler})
        asked = study.ask()
        points.append(space.suggest(asked))
    return points


def mean_and_deviation(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def user_means(result: dict[str, Any]) -> np.ndarray:
    """Each user's metric, mean over seeds."""
    return np.mean([run["users"] for run in result["runs"]], axis=0)


def _trial(cell: Cell, dataset: Dataset, folder: Path, number: int) -> dict[str, Any]:
    written = folder / f"trial-{number:02d}.json"
    if not written.exists():
        values = suggestions(cell.sampler, number + 1)[number]
        run = _finished(folder / f"trial-{number:02d}", _config(cell, values), dataset)
        valid = max(record["valid"][cell.metric] for record in run.epochs())
        written.write_text(json.dumps({"values": values, "valid": valid, "epochs": len(run.epochs())}))
        run.folder.remove()
    return json.loads(written.read_text())


def _config(cell: Cell, values: dict[str, Any]) -> Config:
    return Space.load(SPACE).config(values, cell.settings)


def _finished(folder: Path, config: Config, dataset: Dataset) -> Run:
    return resume(folder) if folder.exists() else train(dataset, folder, config, workers=0)


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
