"""What each part of ADAR is worth: MF with BPR, one thing changed at a time.

    python benchmarks/quality/ablation.py --source path/to/beauty --work scratch/ --name beauty

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
from environment import environment
from loop import METRICS, fit
from variants import variants

from adar_ray import prepare
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.memory import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the data set as published")
    parser.add_argument("--work", type=Path, required=True, help="where the dataset is kept")
    parser.add_argument("--name", required=True, help="of the data set, in the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all variants")
    parser.add_argument("--only", nargs="+", help="names of variants")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    out = arguments.work / arguments.name
    dataset = Dataset.open(out) if out.exists() else prepare(arguments.source, out, valid_fraction=0.1)
    config = load_config(settings=["train.epochs=150", "train.patience=12", *arguments.set])
    base = config.adar.model_dump(exclude={"weight"})
    results = Path(__file__).parents[1] / "results" / f"quality_ablation_{arguments.name}.json"
    content = json.loads(results.read_text()) if results.exists() else {"variants": {}}
    content |= {
        "what": "MF, BPR, validation figures of the best epoch, mean and deviation over seeds",
        "settings": arguments.set,
        "command": f"python benchmarks/quality/ablation.py --source {arguments.name} "
        f"--work scratch --name {arguments.name}",
        **environment(),
    }
    done = content["variants"]
    for seed in range(arguments.seeds):  # outermost: each variant once, before any a second time
        for name in arguments.only or variants(base, 0.5):
            rows = done.get(name, {"seeds": []})["seeds"]
            if seed < len(rows):
                continue
            mean_timestep = done["ADAR"]["seeds"][0]["timestep"] if "ADAR" in done else 0.5
            seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            rows.append(fit(seeded, dataset, variants(base, mean_timestep)[name]).figures)
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
