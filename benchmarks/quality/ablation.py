"""What each part of ADAR is worth: MF with BPR, one thing changed at a time.

    python benchmarks/quality/ablation.py --sources path/to/data --work scratch/ --data beauty

Pure torch, without Ray: the training step of the library in a loop of its own. The best epoch is chosen on
validation; figures are of validation, test is not read. Interrupted, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import DATA, dataset_of
from environment import environment
from loop import METRICS, fit
from variants import variants

from adar_ray.config import load_config
from adar_ray.memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True, help="folder of the data sets as published")
    parser.add_argument("--work", type=Path, required=True, help="where datasets are kept")
    parser.add_argument("--data", required=True, choices=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all variants")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    dataset = dataset_of(arguments.data, arguments.sources, arguments.work, DATA[arguments.data])
    settings = ["train.epochs=150", "train.patience=12", *arguments.set]
    base = load_config(settings=settings).adar.model_dump(exclude={"weight"})
    results = Path(__file__).parents[1] / "results" / f"quality_ablation_{arguments.data}.json"
    content = json.loads(results.read_text()) if results.exists() else {"variants": {}}
    content |= {
        "what": "MF, BPR, validation figures of the best epoch, mean and deviation over seeds",
        "settings": arguments.set,
        "command": "python benchmarks/quality/ablation.py --sources data --work scratch "
        f"--data {arguments.data}",
        **environment(),
    }
    done = content["variants"]
    for seed in range(arguments.seeds):  # outermost: each variant once, before any a second time
        for name in arguments.only or variants(base, 0.5):
            rows = done.get(name, {"seeds": []})["seeds"]
            if seed < len(rows):
                continue
            mean_timestep = done["ADAR"]["seeds"][0]["timestep"] if "ADAR" in done else 0.5
            config = load_config(settings=[*settings, f"train.seed={seed}"])
            rows.append(fit(config, dataset, variants(base, mean_timestep)[name]).figures)
            print(name, seed, rows[-1], file=sys.stderr, flush=True)
            done[name] = _summary(rows)
            results.write_text(json.dumps(content, indent=1) + "\n")


def _summary(rows: list[dict]) -> dict:
    summary: dict = {}
    for metric in METRICS:
        values = [row[metric] for row in rows]
        summary[metric] = {"mean": statistics.mean(values)}
        if len(values) > 1:
            summary[metric]["deviation"] = statistics.stdev(values)
    for figure in ("timestep", "seconds an epoch", "epoch"):
        summary[figure] = statistics.mean(row[figure] for row in rows)
    return summary | {"seeds": rows}


if __name__ == "__main__":
    main()
