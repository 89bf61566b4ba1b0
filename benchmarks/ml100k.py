"""The demo over several seeds: MF on MovieLens 100K with uniform negatives and with ADAR.

    python benchmarks/ml100k.py

Fetches and prepares the data as `make demo` does, trains with the demo's configuration, touches test once a
run, and writes mean and standard deviation to benchmarks/results/ml100k.md.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from importlib import metadata
from pathlib import Path

from adar_ray import evaluate, prepare, train
from adar_ray.config import load_config
from adar_ray.data.fetch import fetch

HERE = Path(__file__).parent
SEEDS = range(5)
METRICS = ("recall@20", "ndcg@20", "hit_rate@20", "coverage@20")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        dataset = prepare(fetch("ml-100k"), f"{scratch}/data", split="ratio")
        rows = [_row(dataset, Path(scratch), sampler) for sampler in ("uniform", "adar")]
    columns = list(rows[0])
    table = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("adar-ray", "torch", "numpy"))
    text = [
        "# MF on MovieLens 100K, uniform negatives and ADAR",
        "",
        *("| " + " | ".join(line) + " |" for line in table),
        "",
        f"Test figures, mean ± standard deviation over training seeds 0 to {len(SEEDS) - 1} on one split.",
        "Configuration: `examples/demo.yaml`, chosen on validation.",
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, no GPU, one thread; Python "
        f"{platform.python_version()}, {versions}.",
        "Command: `python benchmarks/ml100k.py`.",
    ]
    (HERE / "results" / "ml100k.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def _row(dataset, scratch: Path, sampler: str) -> dict[str, str]:
    figures: dict[str, list[float]] = {}
    for seed in SEEDS:
        config = load_config(
            HERE.parent / "examples" / "demo.yaml", [f"sampler.name={sampler}", f"train.seed={seed}"]
        )
        run = train(dataset, scratch / f"{sampler}-{seed}", config, workers=0)
        result = run.result()
        metrics = evaluate(run)["metrics"]
        for name in METRICS:
            figures.setdefault(name, []).append(metrics[name])
        figures.setdefault("best epoch", []).append(result["best_epoch"])
        figures.setdefault("seconds an epoch", []).append(result["train_seconds"] / result["epochs"])
    return {"negatives": sampler} | {
        name: f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        if name in METRICS
        else f"{statistics.mean(values):.2f}"
        for name, values in figures.items()
    }


if __name__ == "__main__":
    main()
