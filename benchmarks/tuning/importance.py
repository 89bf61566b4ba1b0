"""Which parameters of the score-aware function matter, by data set and base model.

    adar-ray tune --data ml-100k --space tune_spaces/score_aware.yaml --out scratch/lightgcn --trials 64 \\
        --set model.name=lightgcn
    python benchmarks/tuning/importance.py --of "LightGCN, ml-100k" --searches scratch/lightgcn

Reads the trials of searches that are there, those of benchmarks/tuning/budget.py or others, and adds a row to
the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment

from adar_ray.reporting.importance import parameter_importance
from adar_ray.reporting.trials import ranked

BEST = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--of", required=True, help="base model and data set, as the results call them")
    parser.add_argument("--searches", nargs="+", type=Path, required=True, help="folders; trials are pooled")
    arguments = parser.parse_args()
    trials = [
        row for folder in arguments.searches for row in pq.read_table(folder / "trials.parquet").to_pylist()
    ]
    importance = parameter_importance(trials, "max")
    best = ranked(trials, "max")[:BEST]
    content = {
        "trials": len(trials),
        "importance": {name: round(share, 3) for name, share in importance.items()},
        "best trials": [
            {"value": round(trial["value"], 4), **{name: trial[name] for name in importance}}
            for trial in best
        ],
    }
    results = Path(__file__).parents[1] / "results" / "tuning_importance.json"
    written = json.loads(results.read_text()) if results.exists() else {}
    written |= {
        "what": "shares of importance by PED-ANOVA over the trials of searches, and their best trials",
        arguments.of: content,
        "command": "python benchmarks/tuning/importance.py --of OF --searches FOLDER...",
        **environment(),
    }
    results.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
