"""What Ray Tune costs per trial: the same trials with `tune`, and with Optuna alone in one process.

    python -m benchmarks.tuning.overhead --source path/to/ml-100k

Both train the same kind of configuration with the same loop on MovieLens 100K, one and two at a time;
Optuna's two are threads. The order of the four cases alternates from repeat to repeat.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import optuna

from adar_ray import prepare
from adar_ray.data.dataset import Dataset
from adar_ray.storage import Folder
from adar_ray.training.data_source import load, loaded_data
from adar_ray.training.loop import fit
from adar_ray.training.run import Run
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import tune
from adar_ray.tuning.space import Space
from benchmarks import record
from benchmarks.arguments import argument_parser

TRIALS = 24
REPEATS = 3
SEED = 0
SPACE = {
    "base": {
        "model": {"name": "mf"},
        "train": {"epochs": 3},
        "loss": {"l2": 2e-2},
        "optimizer": {"lr": 3e-3},
    },
    "parameters": {"adar.beta": {"uniform": [0.5, 0.95]}, "adar.gamma": "default"},
    "search": {"algorithm": "random", "seed": SEED},
    "scheduler": {"name": "none"},
    "budget": {"trials": TRIALS},
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help="MovieLens 100K as published")
    arguments = parser.parse_args()
    space = Space.from_mapping(SPACE, "the benchmark's space")
    ways = {"ray": _with_ray, "optuna": _with_optuna}
    cases = [(name, concurrent) for concurrent in (1, 2) for name in ways]
    rows: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepare(arguments.source, f"{scratch}/data", split="ratio")
        for repeat in range(REPEATS):
            for case in cases if repeat % 2 == 0 else reversed(cases):
                name, concurrent = case
                out = f"{scratch}/{name}-{concurrent}-{repeat}"
                rows[case].append(ways[name](dataset, space, out, concurrent))
                print(name, concurrent, rows[case][-1], flush=True)
    figures: dict[str, Any] = {}
    for (name, concurrent), repeats in rows.items():
        figures.setdefault(f"concurrent_{concurrent}", {})[name] = {
            figure: statistics.median(row[figure] for row in repeats) for figure in repeats[0]
        }
    record.write(
        "tuning_overhead",
        figures,
        description=f"Seconds per trial of 3 epochs of MF on MovieLens 100K, {TRIALS} trials, by number of "
        f"trials at a time; median of {REPEATS} repeats.",
        seeds=[SEED],
    )


def _with_ray(dataset: Dataset, space: Space, out: str, concurrent: int) -> dict[str, float]:
    """A trial costs the time from its start to the start of the next one in its place.

    The first trial in each place also starts the process, and is left out.
    """
    tune(dataset, space, out, concurrent=concurrent, seeds=0)
    search = Search.open(out)
    trials = search.read_trials()
    later = trials[concurrent:]
    span = max(trial.started + trial.seconds for trial in trials) - min(trial.started for trial in later)
    beyond = [trial.seconds - _training_seconds(search, trial.number) for trial in later]
    return {
        "trial_seconds": span / len(later),
        "beyond_training_seconds": statistics.median(beyond),
        "first_trial_seconds": trials[0].seconds,
    }


def _training_seconds(search: Search, number: int) -> float:
    times = [epoch.time for epoch in search.read_epochs(number)]
    return sum(taken.train_seconds + taken.valid_seconds for taken in times)


def _with_optuna(dataset: Dataset, space: Space, out: str, concurrent: int) -> dict[str, float]:
    loaded = load(space.config({}), dataset)

    def objective(trial: optuna.Trial) -> float:
        config = space.config(space.suggest(trial))
        run = Run.begin(Folder.at(f"{out}/{trial.number:05d}"), config, dataset, 0)
        fit(run, loaded_data(config, loaded))
        return max(epoch.valid["ndcg@20"] for epoch in run.epochs())

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED), direction="maximize")
    started = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS, n_jobs=concurrent)
    return {"trial_seconds": (time.perf_counter() - started) / TRIALS}


if __name__ == "__main__":
    main()
