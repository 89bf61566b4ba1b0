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
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from environment import environment
from variants import Variant, variants

from adar_ray import prepare
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import user_items
from adar_ray.memory import keep_freed_memory
from adar_ray.ranking.tally import tally_users
from adar_ray.training.build import StepStatistics, TrainingStep, build_model, build_optimisers
from adar_ray.user_items import UserItems

METRICS = ("recall@20", "ndcg@20")
PATIENCE = 8


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
    config = load_config(settings=["train.epochs=80", *arguments.set])
    base = config.adar.model_dump(exclude={"weight"})
    results = Path(__file__).parents[1] / "results" / f"quality_ablation_{arguments.name}.json"
    content = json.loads(results.read_text()) if results.exists() else {"variants": {}}
    first = content["variants"].get("ADAR")
    mean_timestep = first["timestep"] if first else 0.5
    for name in arguments.only or variants(base, 0.5):
        rows = content["variants"].get(name, {"seeds": []})["seeds"]
        for seed in range(len(rows), arguments.seeds):
            rows.append(_fit(variants(base, mean_timestep)[name], dataset, config, seed))
            print(name, seed, rows[-1], file=sys.stderr, flush=True)
            content["variants"][name] = _summary(rows)
            content |= {
                "what": "MF, BPR, validation figures of the best epoch, mean and deviation over seeds",
                "settings": arguments.set,
                "command": f"python benchmarks/quality/ablation.py --source {arguments.name} "
                f"--work scratch --name {arguments.name}",
                **environment(),
            }
            results.write_text(json.dumps(content, indent=1) + "\n")
        if name == "ADAR":
            mean_timestep = content["variants"][name]["timestep"]


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


def _fit(variant: Variant, dataset: Dataset, config: Config, seed: int) -> dict[str, float]:
    """Trains until validation gets no better; the best epoch's figures."""
    torch.manual_seed(seed)
    observed, valid = user_items(dataset, "train"), user_items(dataset, "valid")
    model = build_model(config, observed, dataset)
    samplers = nn.ModuleList([variant(config.model.dim)])
    optimisers = build_optimisers(config, model, samplers)
    step = TrainingStep(config, model, samplers, observed)
    best, seconds = {"ndcg@20": -1.0, "epoch": 0}, []
    for epoch in range(1, config.train.epochs + 1):
        started = time.perf_counter()
        total = _epoch(step, optimisers, observed, config.train.batch_size, (seed, epoch))
        seconds.append(time.perf_counter() - started)
        model.eval()
        metrics = tally_users(model, observed, valid, [20]).metrics(observed.item_counts())
        if metrics["ndcg@20"] > best["ndcg@20"]:
            statistic = StepStatistics.summary(total)[1]
            best = {name: metrics[name] for name in METRICS}
            best |= {"timestep": statistic["timestep"], "epoch": epoch}
        if epoch - best["epoch"] >= PATIENCE:
            break
    return best | {"seconds an epoch": statistics.median(seconds)}


def _epoch(
    step: TrainingStep,
    optimisers: list[torch.optim.Optimizer],
    observed: UserItems,
    batch_size: int,
    key: tuple[int, int],
) -> torch.Tensor:
    user_E, item_E = observed.pairs()
    step.train()
    total = torch.zeros(())
    for number, row_B in enumerate(torch.randperm(len(user_E)).split(batch_size)):
        at_B = torch.arange(len(row_B))
        loss, statistics_ = step(user_E[row_B], item_E[row_B], at_B, (*key, number))
        for optimiser in optimisers:
            optimiser.zero_grad()
        (loss / len(row_B)).backward()
        for optimiser in optimisers:
            optimiser.step()
        total = total + statistics_
    return total


if __name__ == "__main__":
    main()
