"""Models of RecBole with their own loss, and the same with ADAR's negatives added to it.

    pip install 'adar-ray[recbole]' && pip install --no-deps recbole==1.2.1
    adar-ray prepare ml-100k --min-rating 5 --core 5 --split ratio --out ratio
    adar-ray prepare ml-100k --min-rating 5 --core 5 --split leave-one-out --out loo
    python benchmarks/recbole_models.py --data-ratio ratio --data-loo loo

The pair of runs of a model differs in that one term and in nothing else: seed, epochs, batches and every
setting are the same, neither stops early, and each is tested once, at its best epoch by validation.
Writes benchmarks/results/recbole_models.json after every run and goes on from it; recbole_models.md is
made of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from adar_ray.adapters.recbole import train
from adar_ray.adar import AdarSampler
from adar_ray.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent))
from environment import environment

RESULTS = Path(__file__).parent / "results"
GENERAL = ("BPR", "LightGCN", "NGCF", "SGL", "SpectralCF", "DGCF")
# All with full cross-entropy, RecBole's default for them.
SEQUENTIAL = (
    "STAMP",
    "HGN",
    "SHAN",
    "Caser",
    "NARM",
    "GRU4Rec",
    "SINE",
    "SRGNN",
    "SASRec",
    "LightSANs",
    "GCSAN",
    "FEARec",
    "NextItNet",
)
WEIGHT = 0.3
COMMON = {
    "metrics": ["Recall", "NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "stopping_step": 1000,
    "use_gpu": False,
    "show_progress": False,
}
OF_GENERAL = {"learning_rate": 5e-3, "train_batch_size": 2048, "epochs": 60}
OF_SEQUENTIAL = {
    "learning_rate": 1e-3,
    "train_batch_size": 256,
    "epochs": 8,
    "MAX_ITEM_LIST_LENGTH": 10,
    "loss_type": "CE",
    "train_neg_sample_args": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-ratio", type=Path, required=True, help="dataset for the general models")
    parser.add_argument("--data-loo", type=Path, required=True, help="dataset for the sequential models")
    parser.add_argument("--models", nargs="+", choices=GENERAL + SEQUENTIAL, default=GENERAL + SEQUENTIAL)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "recbole_models.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in arguments.seeds:
        for model in arguments.models:
            dataset = Dataset.open(arguments.data_loo if model in SEQUENTIAL else arguments.data_ratio)
            settings = COMMON | (OF_SEQUENTIAL if model in SEQUENTIAL else OF_GENERAL) | {"seed": seed}
            for weight in (0.0, WEIGHT):
                what = {
                    "model": model,
                    "adar_weight": weight,
                    "settings": settings,
                    "dataset_checksum": dataset.checksum,
                }
                if any(what.items() <= run.items() for run in runs):
                    continue
                runs.append(what | one_run(model, dataset, settings, weight))
                write(path, arguments, runs)
    write(path, arguments, runs)


def one_run(model: str, dataset: Dataset, settings: dict[str, Any], weight: float) -> dict[str, Any]:
    start = time.perf_counter()
    trained = train(model, dataset, settings, AdarSampler(hidden=0) if weight else None, weight)
    run = {
        "best_epoch": trained.best_epoch,
        "valid": trained.valid,
        "test": trained.test,
        "valid_curve": trained.curve,
        "seconds": time.perf_counter() - start,
    }
    print(f"{model}, weight {weight}: {run['test']}, best epoch {trained.best_epoch}", flush=True)
    return run


def write(path: Path, arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    datasets = {}
    for split, address in (("ratio", arguments.data_ratio), ("leave-one-out", arguments.data_loo)):
        dataset = Dataset.open(address)
        source = dataset.manifest.source.model_dump(include={"min_rating", "core"})
        datasets[split] = {"name": dataset.name, **source, **dataset.manifest.counts.model_dump()}
    content = {
        "command": "python benchmarks/recbole_models.py --data-ratio ratio --data-loo loo",
        "datasets": datasets,
        "adar": "AdarSampler(hidden=0), else its defaults, BPR loss, added with weight adar_weight",
        "recbole": metadata.version("recbole"),
        **environment(),
        "runs": runs,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    write_table(content)


def write_table(content: dict[str, Any]) -> None:
    """The means over the seeds that both runs of a model have finished."""
    lines = []
    for model in GENERAL + SEQUENTIAL:
        of_model = [run for run in content["runs"] if run["model"] == model]
        own = {run["settings"]["seed"]: run for run in of_model if not run["adar_weight"]}
        adar = {run["settings"]["seed"]: run for run in of_model if run["adar_weight"]}
        seeds = own.keys() & adar.keys()
        if not seeds:
            continue
        cells = [model, "leave-one-out" if model in SEQUENTIAL else "ratio", str(len(seeds))]
        for metric in ("recall@10", "ndcg@10"):
            before, after = (
                sum(side[seed]["test"][metric] for seed in seeds) / len(seeds) for side in (own, adar)
            )
            cells += [f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.1%}"]
        for side in (own, adar):
            cells.append(f"{sum(side[seed]['best_epoch'] for seed in seeds) / len(seeds):.0f}")
        cells.append(f"{sum(adar[s]['seconds'] for s in seeds) / sum(own[s]['seconds'] for s in seeds):.2f}")
        lines.append(cells)
    head = ["model", "split", "seeds"]
    head += [name for metric in ("Recall@10", "NDCG@10") for name in (metric, "with ADAR", "change")]
    head += ["best epoch", "with ADAR", "time, of own"]
    rows = [head, ["---"] * len(head), *lines]
    counts = [
        f"- {split}: {of['name']}, ratings from {of['min_rating']}, {of['core']}-core, {of['users']} users, "
        f"{of['items']} items, {of['train']} / {of['valid']} / {of['test']} interactions."
        for split, of in content["datasets"].items()
    ]
    text = [
        "# Models of RecBole, with their own loss and with ADAR's negatives added",
        "",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "Test figures by RecBole's own ranking of all items; it leaves seen items in the ranking of the "
        "sequential models. General models: BPR against one uniform negative, "
        f"{OF_GENERAL['epochs']} epochs. Sequential models: full cross-entropy, "
        f"{OF_SEQUENTIAL['epochs']} epochs, histories of {OF_SEQUENTIAL['MAX_ITEM_LIST_LENGTH']}.",
        "",
        f"ADAR: the sampler's defaults and weight {WEIGHT} for all models, chosen on the validation figures "
        "of BPR and LightGCN (seed 0); nothing was tuned for a model alone. Few epochs and small data: this "
        "shows that the adapter works with these models and what the term does at equal epochs, and is no "
        "measurement of how good a model can be. One seed's difference of a few per cent is noise.",
        "",
        *counts,
        "",
        f"RecBole {content['recbole']}, {content['machine']}, one thread; Python {content['python']}, "
        f"torch {content['torch']}, numpy {content['numpy']}, adar-ray {content['adar-ray']}.",
        f"Command: `{content['command']}`.",
    ]
    (RESULTS / "recbole_models.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
