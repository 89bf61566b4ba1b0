"""What each part of ADAR is worth: MF with BPR, one thing changed at a time.

    python -m benchmarks.quality.ablation --sources path/to/data --work scratch/ --data beauty

Uses the library's training step in a plain torch loop, without Ray. The best epoch is chosen on validation,
and the figures are those of validation; test is not read. A rerun trains only what is missing.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from adar_ray.config import load_config
from adar_ray.memory import keep_freed_memory
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.data import DATA, prepared
from benchmarks.quality.loop import METRICS, fit
from benchmarks.quality.variants import variants


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", required=True, choices=DATA)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all variants")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = prepared(arguments.data, arguments.sources, arguments.work, DATA[arguments.data])
    settings = ["model.name=mf", "loss.name=bpr", "train.epochs=150", "train.patience=12", *arguments.set]
    base = load_config(settings=settings).adar
    name = f"quality_ablation_{arguments.data}"
    done = record.read_figures(name).get("variants", {})
    for seed in range(arguments.seeds):  # the outer loop: every variant runs once before any runs twice
        for variant in arguments.only or variants(base, 0.5):
            runs = done.get(variant, {"runs": []})["runs"]
            if seed < len(runs):
                continue
            mean_timestep = done["adar"]["runs"][0]["timestep"] if "adar" in done else 0.5
            config = load_config(settings=[*settings, f"train.seed={seed}"])
            runs.append(fit(config, dataset, variants(base, mean_timestep)[variant]).figures)
            print(variant, seed, runs[-1], flush=True)
            done[variant] = _summary(runs)
            record.write(
                name,
                {"settings": arguments.set, "variants": done},
                description="MF with BPR, ADAR with one thing changed: validation figures of the best epoch, "
                "mean and standard deviation over seeds.",
                seeds=range(max(len(row["runs"]) for row in done.values())),
            )


def _summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        metric: record.mean_and_deviation([run[metric] for run in runs]) for metric in METRICS
    }
    for figure in ("timestep", "epoch_seconds", "epoch"):
        summary[figure] = statistics.mean(run[figure] for run in runs)
    return summary | {"runs": runs}


if __name__ == "__main__":
    main()
