"""`adar-ray train` without options against recommenders at their usual settings, on splits that are fair.

    python -m benchmarks.quality.defaults --sources path/to/data --work scratch/

Popularity, ItemKNN, EASE^R, ALS, MF with BPR and with a softmax, and the default model and loss, each with
uniform negatives and with ADAR's. All interactions of a source are split anew, at random per user, so that
validation and test are alike; Amazon Video Games also by time, each user's last interaction. The best epoch
is chosen on validation.
"""

from __future__ import annotations

from pathlib import Path

import torch

from adar_ray import evaluate
from adar_ray.baselines.item_to_item import EASE_ITEMS
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.ranking.tally import Tally, rank_users
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from benchmarks import record
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.cells import finished
from benchmarks.quality.data import FAIR, prepared

Figures = dict[str, float]
NAME = "quality_defaults"
METRICS = ("recall@20", "ndcg@20")
POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
FEWER = "sampled_softmax.shared_negatives=512"
# Before the temperature followed from the number of items, these were the defaults of MF and of LightGCN.
OF_MF = (FEWER, "sampled_softmax.temperature=0.15")
OF_LIGHTGCN = (FEWER, "sampled_softmax.temperature=0.2")
TRAINED: dict[str, tuple[str, ...]] = {
    "bpr": ("model.name=mf", "loss.name=bpr", "sampler.name=uniform"),
    "bpr-adar": ("model.name=mf", "loss.name=bpr"),
    "mf-uniform": ("model.name=mf", "sampler.name=uniform", *OF_MF),
    "mf": ("model.name=mf", *OF_MF),
    "uniform-512": ("sampler.name=uniform", *OF_LIGHTGCN),
    "adar-512": OF_LIGHTGCN,
    "uniform": ("sampler.name=uniform",),
    "adar": (),
}
"""Settings of what is trained: MF with BPR, MF and LightGCN with a softmax of fewer shared negatives, and the
defaults, each with uniform negatives and with ADAR's."""


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--data", nargs="+", choices=FAIR, default=[*FAIR])
    parser.add_argument("--only", nargs="+", choices=[*BASELINES, *TRAINED], default=[*BASELINES, *TRAINED])
    parser.add_argument("--seeds", type=int, default=3, help="runs of what is trained, from seed 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for data in arguments.data:
        source, options = FAIR[data]
        dataset = prepared(source, arguments.sources, arguments.work, options)
        for name in arguments.only:
            if name == "ease" and dataset.n_items > EASE_ITEMS:
                print(f"{data}: left out ease, which takes too long for so many items", flush=True)
                continue
            if name in BASELINES:
                runs = [_baseline(name, dataset)]
            else:
                out = arguments.work / "defaults"
                runs = [
                    _trained(name, dataset, out / f"{data}-{name}-{seed}", seed)
                    for seed in range(arguments.seeds)
                ]
            print(data, name, runs, flush=True)
            figures = record.read_figures(NAME)  # what other processes measured meanwhile, too
            figures = figures | {data: figures.get(data, {}) | {name: runs}}
            record.write(
                NAME,
                figures,
                description="The library's defaults and recommenders at their usual settings: figures on "
                "validation and test of each run, all items ranked.",
                seeds=range(max(len(runs) for row in figures.values() for runs in row.values())),
                packages=["scipy"],
            )


def _baseline(name: str, dataset: Dataset) -> dict[str, Figures]:
    seen, valid, test = (user_items(dataset, split) for split in ("train", "valid", "test"))
    model = BASELINES[name](seen)
    known, popularity_I = user_items(dataset, "train", "valid"), seen.item_counts()
    return {
        "valid": _of(_at_20(model, seen, valid, popularity_I)),
        "test": _of(_at_20(model, known, test, popularity_I)),
    }


def _at_20(model: BaseModel, seen: UserItems, truth: UserItems, popularity_I: torch.Tensor) -> Figures:
    rankings = rank_users(model, seen, truth, [20])
    return Tally(truth.n_items, [20]).add_all(rankings).metrics(popularity_I)


def _trained(name: str, dataset: Dataset, out: Path, seed: int) -> dict[str, Figures]:
    def on_epoch(epoch: EpochRecord) -> None:
        print(f"{out.name}, epoch {epoch.epoch}, {epoch.time.train_seconds:.0f} s: {epoch.valid}", flush=True)

    settings = [*TRAINED[name], f"train.seed={seed}", "train.threads=1"]
    run = finished(out, load_config(settings=settings), dataset, on_epoch)
    result = run.result()
    assert result is not None
    return {
        "valid": _of(result.valid or {}),
        "test": _of(evaluate(run, "test").metrics),
        "by_power": _by_power(run, dataset) if run.config.model.cosine else {},
    }


def _by_power(run: Run, dataset: Dataset) -> Figures:
    """NDCG@20 on validation if the same model ranks by other powers of length."""
    model, figures = TrainedModel.load(run).model, {}
    seen, valid = user_items(dataset, "train"), user_items(dataset, "valid")
    for power in POWERS:
        model.length_power = power
        figures[f"{power:g}"] = _at_20(model, seen, valid, seen.item_counts())["ndcg@20"]
    return figures


def _of(metrics: Figures) -> Figures:
    return {name: round(metrics[name], 5) for name in METRICS}


if __name__ == "__main__":
    main()
