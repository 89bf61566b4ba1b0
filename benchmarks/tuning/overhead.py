"""What Ray Tune costs a trial: the same trials by `tune_space`, and by Optuna alone in one process.

    python benchmarks/tuning/overhead.py --source path/to/ml-100k

Both train the same kind of configuration with the same loop on MovieLens 100K, one and two at a time;
Optuna's two are threads. The order of the four changes from repeat to repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import prepare
from adar_ray.data.dataset import Dataset
from adar_ray.storage import Folder
from adar_ray.training.data_source import kept_data, load
from adar_ray.training.loop import Worker, fit
from adar_ray.training.run import Run
from adar_ray.tuning.folder import Plan, read_curve, read_trials
from adar_ray.tuning.search import tune_space
from adar_ray.tuning.spaces import Space

TRIALS = 24
REPEATS = 3
SPACE = {
    "base": {"train": {"epochs": 3}, "loss": {"l2": 2e-2}, "optimizer": {"lr": 3e-3}},
    "parameters": {"adar.beta": {"uniform": [0.5, 0.95]}, "adar.gamma": {"uniform": [-1, 1]}},
    "search": {"algorithm": "random"},
    "scheduler": {"name": "none"},
    "budget": {"trials": TRIALS},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="MovieLens 100K as published")
    arguments = parser.parse_args()
    space = Space.from_mapping(SPACE, "the benchmark's space")
    ways = [(way, concurrent) for concurrent in (1, 2) for way in (_by_ray, _by_optuna)]
    rows: dict[tuple, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepare(arguments.source, f"{scratch}/data", split="ratio")
        for repeat in range(REPEATS):
            for way in ways if repeat % 2 == 0 else reversed(ways):
                run, concurrent = way
                row = run(dataset, space, f"{scratch}/{run.__name__}-{concurrent}-{repeat}", concurrent)
                print(run.__name__, concurrent, row, file=sys.stderr)
                rows[way].append(row)
    content = {
        "what": f"seconds a trial of 3 epochs of MF on MovieLens 100K, {TRIALS} trials; median of {REPEATS}",
        **{
            f"{concurrent} at a time": {
                run.__name__.removeprefix("_"): {
                    figure: statistics.median(row[figure] for row in rows[run, concurrent])
                    for figure in rows[run, concurrent][0]
                }
                for run, of in ways
                if of == concurrent
            }
            for concurrent in (1, 2)
        },
        "command": "python benchmarks/tuning/overhead.py --source ml-100k",
        **environment(),
    }
    results = Path(__file__).parents[1] / "results" / "tuning_overhead.json"
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def _by_ray(dataset: Dataset, space: Space, out: str, concurrent: int) -> dict[str, float]:
    """A trial costs what passes from its start to that of the next in its place; the first of each place
    starts the process and is left out."""
    tune_space(dataset, space, out, concurrent=concurrent, seeds=0)
    plan = Plan.open(out)
    trials = read_trials(plan)
    span = max(t.started + t.seconds for t in trials) - min(t.started for t in trials[concurrent:])
    beyond = [t.seconds - _training_seconds(read_curve(plan, t.number)) for t in trials[concurrent:]]
    return {
        "seconds a trial": span / (len(trials) - concurrent),
        "of them beyond training, median": statistics.median(beyond),
        "first trial, its process's start included": trials[0].seconds,
    }


def _by_optuna(dataset: Dataset, space: Space, out: str, concurrent: int) -> dict[str, float]:
    loaded = load(space.config({}), dataset)

    def objective(asked: optuna.Trial) -> float:
        config = space.config(space.suggest(asked))
        run = Run.begin(Folder.at(f"{out}/{asked.number:05d}"), config, dataset, 0)
        fit(config, kept_data(config, loaded, Worker()), run, Worker(), lambda record: None)
        return max(record["valid"]["ndcg@20"] for record in run.epochs())

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    started = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS, n_jobs=concurrent)
    return {"seconds a trial": (time.perf_counter() - started) / TRIALS}


def _training_seconds(curve: list[dict]) -> float:
    return sum(record["time"]["train_seconds"] + record["time"]["valid_seconds"] for record in curve)


if __name__ == "__main__":
    main()
