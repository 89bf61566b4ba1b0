"""`adar-ray train` without options against recommenders at their usual settings, on splits that are fair.

    python -m benchmarks.quality.defaults --sources path/to/data --work scratch/

Popularity, ItemKNN, EASE^R, ALS, MF with BPR and uniform negatives, and the library's defaults. All
interactions of a source are split anew, at random per user, so that validation and test are alike; Amazon
Video Games also by time, each user's last interaction. The best epoch is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from adar_ray import evaluate, train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import user_items
from adar_ray.ranking.tally import tally_users
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.baselines import BASELINES, Baseline
from benchmarks.quality.data import FAIR, prepared

Figures = dict[str, float]
METRICS = ("recall@20", "ndcg@20")
TRAINED: dict[str, tuple[str, ...]] = {
    "uniform": ("loss.name=bpr", "model.cosine=false", "sampler.name=uniform"),
    "adar": (),
}
"""Settings of what is trained."""


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", choices=FAIR, default=[*FAIR])
    parser.add_argument("--only", nargs="+", choices=[*BASELINES, *TRAINED], default=[*BASELINES, *TRAINED])
    parser.add_argument("--seeds", type=int, default=3, help="runs of what is trained, from seed 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = record.read_figures("quality_defaults")
    for data in arguments.data:
        source, options = FAIR[data]
        dataset = prepared(source, arguments.sources, arguments.work, options)
        for name in arguments.only:
            runs = [_baseline(name, dataset)] if name in BASELINES else []
            if name in TRAINED:
                runs = [
                    _trained(name, dataset, arguments.work / "defaults" / f"{data}-{name}-{seed}", seed)
                    for seed in range(arguments.seeds)
                ]
            figures.setdefault(data, {})[name] = runs
            print(data, name, runs, flush=True)
            record.write(
                "quality_defaults",
                figures,
                description="The library's defaults and recommenders at their usual settings: figures on "
                "validation and test of each run, all items ranked.",
                seeds=range(arguments.seeds),
                packages=["scipy"],
            )


def _baseline(name: str, dataset: Dataset) -> dict[str, Figures]:
    seen, valid, test = (user_items(dataset, split) for split in ("train", "valid", "test"))
    model = Baseline(name, seen)
    popularity, ks = seen.item_counts(), [20]
    return {
        "valid": _of(tally_users(model, seen, valid, ks).metrics(popularity)),
        "test": _of(tally_users(model, user_items(dataset, "train", "valid"), test, ks).metrics(popularity)),
    }


def _trained(name: str, dataset: Dataset, out: Any, seed: int) -> dict[str, Figures]:
    settings = [*TRAINED[name], f"train.seed={seed}", "train.threads=1"]
    run = train(dataset, out, load_config(settings=settings), workers=0, replace=True)
    result = run.result()
    assert result is not None
    return {"valid": _of(result.valid or {}), "test": _of(evaluate(run, "test").metrics)}


def _of(metrics: Figures) -> Figures:
    return {name: round(metrics[name], 5) for name in METRICS}


if __name__ == "__main__":
    main()
