"""Pairwise loss: ADAR beside six samplers, each tuned alike, on real data with all items ranked.

    python benchmarks/quality/pairwise.py --sources path/to/data --work scratch/

Each cell is tuned by random trials on a validation split carved from training; the best is trained again with
other seeds and ranks test once a seed. Significance: paired t-test over users, of their NDCG@20 averaged over
seeds. Interrupted, it goes on; cells that are there are shown by --report alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from scipy.stats import ttest_rel

sys.path.insert(0, str(Path(__file__).parents[1]))
from cells import Cell, dataset_of, mean_and_deviation, outcome, user_means
from environment import environment

SAMPLERS = ("uniform", "popularity", "dns", "mixgcf", "ahns", "dens", "adar")
MODELS = {
    "mf": ("model.name=mf", "train.epochs=100"),
    "lightgcn": ("model.name=lightgcn", "model.layers=2", "train.epochs=60"),
}
DATA = ("phone", "beauty", "ml-1m", "gowalla")
RESULTS = Path(__file__).parents[1] / "results" / "quality_pairwise.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets as published")
    parser.add_argument("--work", type=Path, required=True, help="where datasets and runs are kept")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for data in arguments.data:
        dataset = dataset_of(data, arguments.sources, arguments.work)
        for model in arguments.models:
            results = {}
            for sampler in SAMPLERS:
                cell = Cell(model, data, sampler, MODELS[model])
                results[sampler] = outcome(cell, dataset, arguments.work, arguments.trials, arguments.seeds)
                print(cell.name, _row(results[sampler]), file=sys.stderr, flush=True)
            _write(f"{model}, {data}", results, arguments)


def _row(result: dict) -> dict:
    runs = result["runs"]
    return {
        "valid ndcg@20": result["valid"],
        **{name: mean_and_deviation([r["test"][name] for r in runs]) for name in ("recall@20", "ndcg@20")},
        "best epoch": statistics.mean(run["best epoch"] for run in runs),
        "seconds an epoch": round(statistics.median(run["seconds an epoch"] for run in runs), 3),
        "chosen": result["values"],
        "trials' valid": result["trials"],
    }


def _write(table: str, results: dict[str, dict], arguments: argparse.Namespace) -> None:
    rows = {sampler: _row(result) for sampler, result in results.items()}
    ndcg = {sampler: float(user_means(result).mean()) for sampler, result in results.items()}
    best = max((sampler for sampler in SAMPLERS if sampler != "adar"), key=ndcg.__getitem__)
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    content |= {
        table: {
            "rows": rows,
            "adar over uniform": f"{ndcg['adar'] / ndcg['uniform'] - 1:+.1%}",
            "best baseline": best,
            "adar over it": f"{ndcg['adar'] / ndcg[best] - 1:+.1%}",
            "p of that": float(ttest_rel(user_means(results["adar"]), user_means(results[best])).pvalue),
            "trials": arguments.trials,
            "seeds": arguments.seeds,
        },
        "command": "python benchmarks/quality/pairwise.py --sources data --work scratch",
        **environment(),
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
