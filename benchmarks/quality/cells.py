"""One cell of a table: a sampler tuned on validation as hard as the others, tested over seeds.

First, what all samplers share is tuned on a grid, with each sampler's usual values, and in some tables with
other values of its own. Then the sampler's own parameters are drawn at random from a space, at the best point
of the grid. A draw that repeats a trial is not run, and a sampler without parameters has no draws. The best
trial on validation is trained again with other seeds, and each of these runs reads test once. Where that
would take too long, the trial's own run reads test.

Each run has its folder under the work folder, so an interrupted table runs only what is missing; what ran
with another configuration runs again. The trials of a cell may run on several machines: each trial is a JSON
file that records where it ran.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from adar_ray import evaluate, resume, train
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.training.loop import OnEpoch
from adar_ray.training.run import Run
from adar_ray.tuning.space import Space
from benchmarks.record import Environment

Values = dict[str, Any]

USUAL: dict[str, Values] = {
    "uniform": {"uniform.negatives": 4},
    "popularity": {"popularity.negatives": 4},
    "ahns": {"ahns.candidates": 32},
}
"""A sampler's values on the grid, where they are not the library's defaults.

AHNS's value is its authors'. Plain negatives are cheap, so there are as many as ADAR has.
"""


@dataclass(frozen=True)
class Cell:
    """A model, a dataset and a sampler.

    Attributes:
        name: of its folder.
        settings: `section.key=value`, for all trials.
        grid: points that every sampler tries first, values by `section.key`.
        own: what the sampler tries the whole grid with; its usual values first, which are no values here.
        space: what the sampler's own parameters are drawn from.
        draws: the number of trials with drawn parameters.
        metric: what trials are compared by.
    """

    name: str
    sampler: str
    settings: tuple[str, ...]
    grid: tuple[Values, ...]
    own: tuple[Values, ...]
    space: Path
    draws: int
    metric: str


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        valid: the best trial's figure.
        chosen: its values.
        trials: the figures of all trials on validation, those of the grid first.
        environments: where the trials ran.
        test: figures of each tested run.
        best_epochs: of each tested run.
        users: the metric of each user on test, mean over the tested runs.
    """

    valid: float
    chosen: Values
    trials: list[float]
    environments: list[dict[str, Any]]
    test: list[dict[str, float]]
    best_epochs: list[int]
    users: np.ndarray


def grid(points: Mapping[str, Sequence[Any]]) -> tuple[Values, ...]:
    """All combinations of the values of several keys."""
    return tuple(dict(zip(points, values, strict=True)) for values in product(*points.values()))


def tune_and_test(cell: Cell, dataset: Dataset, work: Path, seeds: int) -> Outcome:
    """Run whatever of the cell has not run yet.

    Args:
        seeds: in addition to that of the trials; with 0, the best trial's run is tested.
    """
    folder = work / "cells" / cell.name

    def trial(name: str, values: Values) -> dict[str, Any]:
        return _trial(cell, dataset, folder / name, values, keep_run=not seeds)

    usual = {"sampler.name": cell.sampler, **USUAL.get(cell.sampler, {})}
    points = [usual | own | point for own, point in product(cell.own, cell.grid)]
    trials = [trial(f"grid-{n}", point) for n, point in enumerate(points)]
    common = {key: _best(trials)["values"][key] for key in cell.grid[0]}
    for n, drawn in enumerate(_draws(cell)):
        values = usual | drawn | common
        if not _tried(trials, cell, values):  # a sampler without parameters draws nothing new
            trials.append(trial(f"draw-{n}", values))
    best = _best(trials)
    folders = [folder / f"seed-{seed}" for seed in range(1, seeds + 1)] or [folder / best["name"]]
    runs = [
        finished(run_folder, _config(cell, best["values"] | {"train.seed": seed}), dataset)
        for seed, run_folder in enumerate(folders, start=1 if seeds else 0)  # the trials had seed 0
    ]
    for run in runs:
        if run.user_figures("test") is None:
            evaluate(run)
    return Outcome(
        valid=best["valid"],
        chosen=best["values"],
        trials=[trial["valid"] for trial in trials],
        environments=[trial["environment"] for trial in trials],
        test=[run.evaluations()["test"].metrics for run in runs],
        best_epochs=[run.result().best_epoch for run in runs],
        users=np.mean([(run.user_figures("test") or {})[cell.metric] for run in runs], axis=0),
    )


def mean_and_deviation(values: Sequence[float]) -> str:
    """`0.1234 ± 0.0056`, or the mean alone for a single value."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def _best(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["valid"])


def _tried(trials: Sequence[dict[str, Any]], cell: Cell, values: Values) -> bool:
    config = _config(cell, values).used()
    return any(load_config(values=trial["config"]).used() == config for trial in trials)


def _draws(cell: Cell) -> list[Values]:
    """Random points of the sampler's own part of the space, the same on every dataset."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space, points = Space.load(cell.space), []
    for _ in range(cell.draws):
        study.enqueue_trial({"sampler.name": cell.sampler})
        points.append(space.suggest(study.ask()))
    return points


def _trial(cell: Cell, dataset: Dataset, folder: Path, values: Values, keep_run: bool) -> dict[str, Any]:
    config, path = _config(cell, values), folder.with_suffix(".json")
    kept = json.loads(path.read_text()) if path.exists() else None
    if kept is None or load_config(values=kept["config"]).used() != config.used():
        run = finished(folder, config, dataset)
        epochs = run.epochs()
        kept = {
            "values": values,
            "valid": max(epoch.valid[cell.metric] for epoch in epochs),
            "epochs": len(epochs),
            "config": config.used(),
            "environment": Environment.here().model_dump(),
        }
        path.write_text(json.dumps(kept))
        if not keep_run:
            run.folder.remove()
    return kept | {"name": folder.name}


def _config(cell: Cell, values: Values) -> Config:
    chosen = [f"{key}={value}" for key, value in values.items()]
    return load_config(settings=[*cell.settings, f"train.metric={cell.metric}", *chosen])


def finished(folder: Path, config: Config, dataset: Dataset, on_epoch: OnEpoch = lambda record: None) -> Run:
    """The run in this folder, trained to its end: continued, or new if it has another configuration."""
    if folder.exists() and Run.open(folder).config.used() == config.used():
        return resume(folder, on_epoch=on_epoch)
    return train(dataset, folder, config, workers=0, replace=True, on_epoch=on_epoch)
