"""What a search finds in a given time: random search without early stopping, TPE with ASHA, and the defaults.

    python -m benchmarks.tuning.budget --data ml-100k --source path/to/ml-100k --work scratch/
    python -m benchmarks.tuning.budget --data phone --source path/to/phone --work scratch/ --minutes 10

Searches run one after the other, one trial at a time on one core; which comes first alternates from repeat to
repeat. The space is tune_spaces/score_aware.yaml; random search takes only its parameters. Searches choose on
validation; the winner of each is trained again and reads test once. A rerun continues what was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.tuning.folder import RESULT, SEARCH, Search, WinnerResult
from adar_ray.tuning.search import resume_search, tune
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import best_of
from benchmarks import record
from benchmarks.arguments import add_source, argument_parser

NAME = "tuning_budget"
SPACE = Path(__file__).parents[2] / "tune_spaces" / "score_aware.yaml"
# What is not searched. MovieLens 100K: as in the demo. Phone: a higher rate makes trials short.
SETTINGS = {
    "ml-100k": ("model.name=mf", "loss.l2=2e-2", "optimizer.lr=3e-3"),
    "phone": (
        "model.name=mf",
        "optimizer.lr=3e-3",
    ),
}
ARMS: dict[str, dict[str, Any]] = {
    "random": {"search": {"algorithm": "random"}, "scheduler": {"name": "none"}},
    "tpe_asha": {},
}
METRIC = "ndcg@20"
REPEATS = 3


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data", choices=SETTINGS, required=True)
    add_source(parser, "the dataset")
    parser.add_argument("--minutes", type=float, default=5, help="of each search")
    arguments = parser.parse_args()
    data = arguments.work / arguments.data
    if not data.exists():
        split = "ratio" if arguments.data == "ml-100k" else "given"
        prepare(arguments.source, data, split=split, valid_fraction=0.1)
    for repeat in range(REPEATS):
        for arm in ARMS if repeat % 2 == 0 else reversed(ARMS):
            _search(arguments, _folder(arguments, arm, repeat), arm, repeat)
        print(f"repeat {repeat + 1} of {REPEATS} is done", flush=True)
    _write(arguments, data)


def _folder(arguments: argparse.Namespace, arm: str, repeat: int) -> Path:
    return arguments.work / f"{arguments.data}-{arm}-{repeat}"


def _search(arguments: argparse.Namespace, out: Path, arm: str, repeat: int) -> None:
    if (out / SEARCH).exists():
        resume_search(out)
        return
    space = Space.load(SPACE).model_dump(mode="json")
    space |= {"budget": {"trials": 10_000, "patience": None}, **ARMS[arm]}
    space["search"] = {**space["search"], "seed": repeat}
    tune(
        arguments.work / arguments.data,
        Space.from_mapping(space, str(SPACE)),
        out,
        settings=(*SETTINGS[arguments.data], f"train.seed={repeat}"),
        seconds=60 * arguments.minutes,
        concurrent=1,
    )


def _defaults(arguments: argparse.Namespace, data: Path, repeat: int) -> dict[str, Any]:
    settings = (*SETTINGS[arguments.data], f"train.seed={repeat}")
    config = load_config(values=Space.load(SPACE).base, settings=settings)
    run = train(data, _folder(arguments, "defaults", repeat), config, workers=0, replace=True)
    return {"valid": run.result().valid[METRIC], "test": evaluate(run).metrics[METRIC], "trials": 1}


def _outcome(arguments: argparse.Namespace, arm: str, repeat: int) -> dict[str, Any]:
    search = Search.open(_folder(arguments, arm, repeat))
    trials = search.read_trials()
    best = best_of(trials, search.space.mode)
    return {
        "valid": best.value,
        "test": search.folder.read_record(RESULT, WinnerResult).test[METRIC].mean,
        "trials": len(trials),
        "epochs": sum(trial.epochs for trial in trials),
        "best": best.values,
    }


def _write(arguments: argparse.Namespace, data: Path) -> None:
    arms = {
        "defaults": [_defaults(arguments, data, repeat) for repeat in range(REPEATS)],
        **{arm: [_outcome(arguments, arm, repeat) for repeat in range(REPEATS)] for arm in ARMS},
    }
    row = {
        "minutes": arguments.minutes,
        "settings": SETTINGS[arguments.data],
        "arms": {
            arm: {
                **{
                    f"{part}_{METRIC}": record.mean_and_deviation([repeat[part] for repeat in repeats])
                    for part in ("valid", "test")
                },
                "repeats": repeats,
            }
            for arm, repeats in arms.items()
        },
    }
    print(row)
    record.write(
        NAME,
        record.read_figures(NAME) | {arguments.data: row},
        description="MF with BPR on the score_aware space: NDCG@20 of the best trial on validation and of "
        "its retraining on test, by search, mean and standard deviation over repeats.",
        seeds=range(REPEATS),
    )


if __name__ == "__main__":
    main()
