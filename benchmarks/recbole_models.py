"""RecBole's models with their own loss, and with ADAR's negatives added to it.

    pip install 'adar-ray[recbole]' && pip install --no-deps recbole==1.2.1
    adar-ray prepare ml-100k --min-rating 5 --core 5 --split ratio --out ratio
    adar-ray prepare ml-100k --min-rating 5 --core 5 --split leave-one-out --out loo
    python -m benchmarks.recbole_models --data-ratio ratio --data-loo loo

The two runs of a model differ in that term only: seed, epochs, batches and all settings are the same, neither
run stops early, and each reads test once, at its best epoch on validation. The result is written after every
run; a rerun trains only what is missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from adar_ray.adapters.recbole import train
from adar_ray.adar import AdarSampler, AdarSettings
from adar_ray.data.dataset import Dataset
from benchmarks import record
from benchmarks.arguments import argument_parser

NAME = "recbole_models"
GENERAL = ("BPR", "LightGCN", "NGCF", "SGL", "SpectralCF", "DGCF")
# All of these use full cross-entropy, RecBole's default for them.
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
GENERAL_SETTINGS = {"learning_rate": 5e-3, "train_batch_size": 2048, "epochs": 60}
SEQUENTIAL_SETTINGS = {
    "learning_rate": 1e-3,
    "train_batch_size": 256,
    "epochs": 8,
    "MAX_ITEM_LIST_LENGTH": 10,
    "loss_type": "CE",
    "train_neg_sample_args": None,
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--data-ratio", type=Path, required=True, help="dataset for the general models")
    parser.add_argument("--data-loo", type=Path, required=True, help="dataset for the sequential models")
    parser.add_argument("--models", nargs="+", choices=GENERAL + SEQUENTIAL, default=GENERAL + SEQUENTIAL)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = record.read_figures(NAME).get("runs", [])
    for seed in arguments.seeds:
        for model in arguments.models:
            dataset = Dataset.open(arguments.data_loo if model in SEQUENTIAL else arguments.data_ratio)
            specific = SEQUENTIAL_SETTINGS if model in SEQUENTIAL else GENERAL_SETTINGS
            settings = COMMON | specific | {"seed": seed}
            for weight in (0.0, WEIGHT):
                case = {
                    "model": model,
                    "adar_weight": weight,
                    "settings": settings,
                    "dataset_checksum": dataset.checksum,
                }
                if any(case.items() <= run.items() for run in runs):
                    continue
                runs.append(case | _run(model, dataset, settings, weight))
                _write(arguments, runs)


def _run(model: str, dataset: Dataset, settings: dict[str, Any], weight: float) -> dict[str, Any]:
    start = time.perf_counter()
    sampler = AdarSampler(AdarSettings(hidden_positives=0)) if weight else None
    trained = train(model, dataset, settings, sampler, weight)
    run = {
        "best_epoch": trained.best_epoch,
        "valid": trained.valid,
        "test": trained.test,
        "valid_curve": trained.curve,
        "seconds": time.perf_counter() - start,
    }
    print(f"{model}, weight {weight}: {run['test']}, best epoch {trained.best_epoch}", flush=True)
    return run


def _write(arguments: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    datasets = {}
    for split, address in (("ratio", arguments.data_ratio), ("leave-one-out", arguments.data_loo)):
        dataset = Dataset.open(address)
        source = {key: getattr(dataset.manifest.source, key) for key in ("min_rating", "core")}
        datasets[split] = {"name": dataset.name, **source, **dataset.manifest.counts.model_dump()}
    record.write(
        NAME,
        {"datasets": datasets, "runs": runs},
        description="RecBole's models with their own loss, and with BPR against ADAR's negatives "
        "(AdarSettings(hidden_positives=0), other settings default) added with weight adar_weight.",
        seeds=sorted({run["settings"]["seed"] for run in runs}),
        packages=["recbole"],
    )


if __name__ == "__main__":
    main()
