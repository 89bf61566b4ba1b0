"""What a search brings in a given time: random trials to their end, TPE with ASHA, and the defaults alone.

    python benchmarks/tuning/budget.py --data ml-100k --source path/to/ml-100k --work scratch/
    python benchmarks/tuning/budget.py --data phone --source path/to/phone --work scratch/ --minutes 10

One search after the other, one trial at a time on one core; which comes first changes from repeat to repeat.
The space is tune_spaces/score_aware.yaml: random search takes its parameters and nothing
else of it. Searches choose on validation; the winner of each is trained again and ranks test once.
Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.tuning.folder import SEARCH, Plan, best_of, read_trials
from adar_ray.tuning.search import resume_search, tune_space
from adar_ray.tuning.spaces import Space

SPACE = Path(__file__).parents[2] / "tune_spaces" / "score_aware.yaml"
# What is not searched. MovieLens 100K: as in the demo. Phone: a higher rate, so that trials are short.
SETTINGS = {
    "ml-100k": ("loss.l2=2e-2", "optimizer.lr=3e-3"),
    "phone": ("optimizer.lr=3e-3",),
}
ARMS = {
    "random, no early stopping": {"search": {"algorithm": "random"}, "scheduler": {"name": "none"}},
    "TPE with ASHA": {},
}
METRIC = "ndcg@20"
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=SETTINGS, required=True)
    parser.add_argument("--source", type=Path, required=True, help="the data set as published")
    parser.add_argument("--work", type=Path, required=True, help="where the dataset and searches are kept")
    parser.add_argument("--minutes", type=float, default=5, help="of each search")
    arguments = parser.parse_args()
    data = arguments.work / arguments.data
    if not data.exists():
        split = "ratio" if arguments.data == "ml-100k" else "given"
        prepare(arguments.source, data, split=split, valid_fraction=0.1)
    for repeat in range(REPEATS):
        for arm in ARMS if repeat % 2 == 0 else reversed(ARMS):
            _search(arguments, _folder(arguments, arm, repeat), arm, repeat)
        print(f"repeat {repeat} of {REPEATS} is done", file=sys.stderr)
    _write(arguments, data)


def _folder(arguments: argparse.Namespace, arm: str, repeat: int) -> Path:
    return arguments.work / f"{arguments.data}-{'-'.join(arm.replace(',', '').split())}-{repeat}"


def _search(arguments: argparse.Namespace, out: Path, arm: str, repeat: int) -> None:
    space = Space.load(SPACE).model_dump(mode="json")
    space |= {"budget": {"trials": 10_000, "patience": None}}
    for part, content in ARMS[arm].items():
        space[part] = content
    space["search"] = {**space["search"], "seed": repeat}
    if (out / SEARCH).exists():
        resume_search(out)
        return
    tune_space(
        arguments.work / arguments.data,
        Space.from_mapping(space, str(SPACE)),
        out,
        settings=(*SETTINGS[arguments.data], f"train.seed={repeat}"),
        seconds=60 * arguments.minutes,
        concurrent=1,
    )


def _defaults(arguments: argparse.Namespace, data: Path, repeat: int) -> dict[str, float]:
    base = Space.load(SPACE).base
    settings = (*SETTINGS[arguments.data], f"train.seed={repeat}")
    out = arguments.work / f"{arguments.data}-defaults-{repeat}"
    run = train(data, out, load_config(values=base, settings=settings), workers=0, replace=True)
    result = run.result()
    return {"valid": result["valid"][METRIC], "test": evaluate(run)["metrics"][METRIC], "trials": 1}


def _outcome(arguments: argparse.Namespace, arm: str, repeat: int) -> dict[str, float]:
    plan = Plan.open(_folder(arguments, arm, repeat))
    trials = read_trials(plan)
    best = best_of(trials, plan.space.mode)
    test = plan.folder.read_json("winner/result.json")["test"][METRIC]["mean"]
    return {
        "valid": best.value,
        "test": test,
        "trials": len(trials),
        "epochs": sum(trial.epochs for trial in trials),
        "best": best.values,
    }


def _write(arguments: argparse.Namespace, data: Path) -> None:
    outcomes = {
        "defaults": [_defaults(arguments, data, repeat) for repeat in range(REPEATS)],
        **{arm: [_outcome(arguments, arm, repeat) for repeat in range(REPEATS)] for arm in ARMS},
    }
    results = Path(__file__).parents[1] / "results" / "tuning_budget.json"
    content = json.loads(results.read_text()) if results.exists() else {}
    content |= {
        "what": f"{METRIC} of the best on validation, of its retraining on test; score_aware space, MF, BPR",
        arguments.data: {
            "minutes a search": arguments.minutes,
            "settings": SETTINGS[arguments.data],
            **{
                arm: {
                    **{f"{part} {METRIC}": _mean([row[part] for row in rows]) for part in ("valid", "test")},
                    "repeats": rows,
                }
                for arm, rows in outcomes.items()
            },
        },
        "command": "python benchmarks/tuning/budget.py --data DATA --source SOURCE --work scratch",
        **environment(),
    }
    results.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content[arguments.data], indent=1))


def _mean(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}


if __name__ == "__main__":
    main()
