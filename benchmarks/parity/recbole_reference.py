"""RecBole's own models on our splits of MovieLens 100K: the reference for `recbole_ours`.

    adar-ray prepare ml-100k --out ratio --split ratio
    adar-ray prepare ml-100k --out loo --split leave-one-out
    python -m benchmarks.parity.recbole_reference --data-ratio ratio --data-loo loo --out scratch

Model, loss, negatives, trainer, early stopping, ranking and metrics are RecBole's. Every finished
(model, seed, settings) adds a line to OUT/recbole.jsonl; a rerun trains only those that are missing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from adar_ray.adapters.recbole import train
from adar_ray.adapters.recbole_library import training_pairs
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.metrics import ranking_metrics
from benchmarks.arguments import argument_parser
from benchmarks.record import Environment

CUTS = (10, 20)
GENERAL = {
    "BPR": {"embedding_size": 64},
    # With require_pow the penalty is half the squared length of the three vectors, averaged over the batch.
    "LightGCN": {
        "embedding_size": 64,
        "n_layers": 2,
        "reg_weight": 1e-5,
        "require_pow": True,
        "learning_rate": 5e-3,  # with 1e-3 it has not converged after 200 epochs
    },
}
# Small, so that a CPU needs an hour for five seeds of both RecBole's models and ours.
SEQUENTIAL_SETTINGS = {
    "loss_type": "CE",
    "train_neg_sample_args": None,
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 2048,
    "learning_rate": 3e-3,
    "epochs": 15,
    "stopping_step": 3,
}
SEQUENTIAL = {
    "GRU4Rec": SEQUENTIAL_SETTINGS
    | {"embedding_size": 32, "hidden_size": 64, "num_layers": 1, "dropout_prob": 0.3},
    "SASRec": SEQUENTIAL_SETTINGS
    | {
        "hidden_size": 32,
        "inner_size": 128,
        "n_layers": 1,
        "n_heads": 2,
        "hidden_dropout_prob": 0.3,
        "attn_dropout_prob": 0.3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
    },
}
COMMON = {
    "learner": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "train_batch_size": 2048,
    "epochs": 200,
    "eval_step": 1,
    "stopping_step": 10,
    "metrics": ["Recall", "NDCG", "Hit"],
    "topk": list(CUTS),
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "use_gpu": False,
    "show_progress": False,
    "reproducibility": True,
}


def main() -> None:
    models = {**GENERAL, **SEQUENTIAL}
    parser = argument_parser(__doc__)
    parser.add_argument("--data-ratio", type=Path, required=True, help="dataset for BPR and LightGCN")
    parser.add_argument("--data-loo", type=Path, required=True, help="dataset for GRU4Rec and SASRec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=models, default=list(models))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out.resolve() / "recbole.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    finished = [(line["model"], line["settings"]) for line in done]
    for seed in arguments.seeds:
        for model in arguments.models:
            settings = COMMON | models[model] | {"seed": seed}
            if (model, settings) in finished:
                continue
            dataset = Dataset.open(arguments.data_loo if model in SEQUENTIAL else arguments.data_ratio)
            record = run(model, dataset, settings)
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{model} seed {seed}: {record['test']} in {record['seconds']:.0f} s", flush=True)


def run(model: str, dataset: Dataset, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one model with RecBole; return its figures and what they depend on."""
    start = time.perf_counter()

    def on_epoch(epoch: int, score: float) -> None:
        seconds = time.perf_counter() - start
        print(f"{model}, seed {settings['seed']}, epoch {epoch}: {score:.4f}, {seconds:.0f} s", flush=True)

    trained = train(model, dataset, settings, on_epoch=on_epoch)
    check_split(dataset, trained.loaders, model in SEQUENTIAL)
    record = {
        "model": model,
        "seed": settings["seed"],
        "best_epoch": trained.best_epoch,
        "epochs": len(trained.curve),
        "valid": trained.valid,
        "test": trained.test,
        "valid_curve": trained.curve,
        "seconds": time.perf_counter() - start,
        "split": dataset.manifest.split.model_dump(),
        "dataset_checksum": dataset.checksum,
        "settings": settings,
        "environment": Environment.here("recbole").model_dump(),
    }
    if model in SEQUENTIAL:
        record["test_without_seen"] = without_seen(trained.model, trained.loaders)
    return record


def check_split(dataset: Dataset, loaders: tuple[Any, ...], sequential: bool) -> None:
    """Check that RecBole trained, validated and tested on the same pairs as we do."""
    for split, loader in zip(SPLITS, loaders, strict=True):
        features = loader._dataset.inter_feat
        targets = features["user_id"], features["item_id"]
        theirs = training_pairs(loader) if split == "train" and sequential else targets
        keys = (
            loader._dataset.id2token(name, ids.numpy()).astype(int).tolist()
            for name, ids in zip(("user_id", "item_id"), theirs, strict=True)
        )
        users, items = dataset.read_split(split)
        if set(zip(*keys, strict=True)) != set(zip(users.tolist(), items.tolist(), strict=True)):
            raise SystemExit(f"RecBole's {split} split differs from ours")


@torch.no_grad()
def without_seen(model: Any, loaders: tuple[Any, ...]) -> dict[str, float]:
    """Test figures with seen items removed from the ranking. RecBole leaves them in."""
    train_loader, valid_loader, test_loader = loaders
    user_E, item_E = training_pairs(train_loader)
    seen_UI = torch.zeros(test_loader._dataset.user_num, test_loader._dataset.item_num, dtype=torch.bool)
    seen_UI[user_E, item_E] = True
    seen_UI[valid_loader._dataset.inter_feat["user_id"], valid_loader._dataset.inter_feat["item_id"]] = True
    seen_UI[:, 0] = True  # padding
    model.eval()
    hits = []
    for interaction, _, _, positive_B in test_loader:
        score_BI = model.full_sort_predict(interaction).view(len(positive_B), -1)
        ranked_Bk = score_BI.masked_fill(seen_UI[interaction["user_id"]], -torch.inf).topk(max(CUTS)).indices
        hits.append(ranked_Bk == positive_B[:, None])
    hit_Bk = torch.cat(hits)
    metrics = ranking_metrics(hit_Bk, torch.ones(len(hit_Bk)), CUTS)
    return {
        f"{name}@{k}": metrics[f"{name}@{k}"].mean().item() for name in ("hit_rate", "ndcg") for k in CUTS
    }


if __name__ == "__main__":
    main()
