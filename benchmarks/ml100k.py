"""MF on MovieLens 100K with uniform negatives and with ADAR, over several seeds.

    python -m benchmarks.ml100k

Downloads and prepares the data as `make demo` does, trains with the demo's configuration, and reads test once
per run.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.fetch import fetch
from benchmarks import record
from benchmarks.arguments import argument_parser

CONFIG = Path(__file__).parents[1] / "examples" / "demo.yaml"
METRICS = ("recall@20", "ndcg@20", "hit_rate@20", "coverage@20")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--source", type=Path, help="MovieLens 100K as published, instead of a download")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepare(arguments.source or fetch("ml-100k"), f"{scratch}/data", split="ratio")
        figures = {
            sampler: _figures(dataset, Path(scratch), sampler, arguments.seeds, arguments.set)
            for sampler in ("uniform", "adar")
        }
    record.write(
        "ml100k",
        figures,
        description="MF on MovieLens 100K with examples/demo.yaml, by sampler: test figures, mean and "
        "standard deviation over seeds.",
        seeds=arguments.seeds,
    )


def _figures(
    dataset: Dataset, scratch: Path, sampler: str, seeds: list[int], settings: list[str]
) -> dict[str, Any]:
    rows = []
    for seed in seeds:
        config = load_config(CONFIG, [*settings, f"sampler.name={sampler}", f"train.seed={seed}"])
        run = train(dataset, scratch / f"{sampler}-{seed}", config, workers=0)
        result = run.result()
        metrics = evaluate(run).metrics
        rows.append(
            {name: metrics[name] for name in METRICS}
            | {"best_epoch": result.best_epoch, "epoch_seconds": result.train_seconds / result.epochs}
        )
        print(f"{sampler}, seed {seed}: {rows[-1]}", flush=True)
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: record.mean_and_deviation(values[name]) for name in METRICS} | {
        name: statistics.mean(values[name]) for name in ("best_epoch", "epoch_seconds")
    }


if __name__ == "__main__":
    main()
