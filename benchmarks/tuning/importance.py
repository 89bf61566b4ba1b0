"""Which parameters of the score-aware function matter, by dataset and base model.

    adar-ray tune --data ml-100k --space tune_spaces/score_aware.yaml --out scratch/lightgcn --trials 64 \\
        --set model.name=lightgcn
    python -m benchmarks.tuning.importance --name lightgcn-ml-100k --searches scratch/lightgcn

Reads the trials of finished searches, such as those of `benchmarks.tuning.budget`, and adds a row to the
result.
"""

from __future__ import annotations

from pathlib import Path

from adar_ray.tuning.folder import Search
from adar_ray.tuning.report.importance import parameter_importance
from adar_ray.tuning.trial import ranked
from benchmarks import record
from benchmarks.arguments import argument_parser

NAME = "tuning_importance"
BEST = 5


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--name", required=True, help="of the row: base model and dataset")
    parser.add_argument("--searches", nargs="+", type=Path, required=True, help="folders; trials are pooled")
    arguments = parser.parse_args()
    searches = [Search.open(folder) for folder in arguments.searches]
    trials = [trial for search in searches for trial in search.read_trials()]
    shares = parameter_importance(trials, "max").shares
    row = {
        "trials": len(trials),
        "importance": {name: round(share, 3) for name, share in shares.items()},
        "best_trials": [
            {"value": round(trial.value, 4), **{name: trial.values[name] for name in shares}}
            for trial in ranked(trials, "max")[:BEST]
        ],
    }
    print(row)
    record.write(
        NAME,
        record.read_figures(NAME) | {arguments.name: row},
        description="Importance of ADAR's parameters by PED-ANOVA over the trials of searches, and the best "
        "trials, by model and dataset.",
        seeds=sorted({search.space.search.seed for search in searches}),
    )


if __name__ == "__main__":
    main()
