"""RecBole in a process of its own: an epoch of BPR, and its ranking of all items."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.peer_protocol import seconds, serve

held: dict[str, Any] = {}


def start(arrays: str, batch_size: int) -> dict[str, Any]:
    """Reads `train.npy`, `valid.npy` and `test.npy`, users and items `[E, 2]`, from a folder."""
    import numpy as np

    for name, same in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if name not in np.__dict__:  # RecBole uses names that numpy 2 has removed
            setattr(np, name, same)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import BPR
    from recbole.trainer import Trainer
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):  # nor has scipy this one any more
        dok_matrix._update = lambda self, entries: self._dict.update(entries)
    logging.disable(logging.INFO)
    folder = tempfile.mkdtemp(prefix="recbole-")
    os.chdir(folder)
    (Path(folder) / "data").mkdir()
    for split in ("train", "valid", "test"):
        rows = np.load(f"{arrays}/{split}.npy")
        path = Path(folder) / "data" / f"data.{split}.inter"
        header = "user_id:token\titem_id:token"
        np.savetxt(path, rows, fmt="%d", delimiter="\t", header=header, comments="")
    settings = {
        "data_path": folder,
        "load_col": {"inter": ["user_id", "item_id"]},
        "benchmark_filename": ["train", "valid", "test"],
        "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "dynamic": False},
        "embedding_size": 64,
        "train_batch_size": batch_size,
        "metrics": ["Recall", "NDCG"],
        "topk": [20],
        "valid_metric": "NDCG@20",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="BPR", dataset="data", config_dict=settings)
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = BPR(config, train.dataset)
    held.update(trainer=Trainer(config, model), train=train, test=test, epochs=0)
    return {}


def epoch() -> dict[str, Any]:
    held["epochs"] += 1
    return seconds(lambda: held["trainer"]._train_epoch(held["train"], held["epochs"]))


def rank() -> dict[str, Any]:
    return seconds(lambda: held["trainer"].evaluate(held["test"], load_best_model=False))


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch, "rank": rank})
