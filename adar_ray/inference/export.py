"""Exports a trained model's vectors, for a vector index.

Legend: U users, B users of a tile, D dimensions.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from adar_ray.data.dataset import SPLITS
from adar_ray.data.matrix import to_column
from adar_ray.inference.model import TrainedModel
from adar_ray.models.protocol import ranking_items, snapshot
from adar_ray.outputs import new_folder
from adar_ray.ranking.top_items import TILE, user_vectors
from adar_ray.storage import Folder
from adar_ray.training.run import Run


def export(
    run: str | Path | Run,
    out: str | Path,
    *,
    replace: bool = False,
    data: str | Path | None = None,
    trust: bool = False,
) -> Folder:
    """Writes `users.parquet` and `items.parquet` with the columns `key, vector`, by dense id.

    The score of a pair is the dot product of its vectors. A sequential model's user vectors are as of now,
    after all interactions of all splits.

    Args:
        run: a run, or a copy of its `model/`.
        data: where the dataset of a run that is not finished is now, if it has moved.
        trust: whether custom components that the folder names may run.
    """
    trained = TrainedModel.load(run, data, trust=trust)
    dataset = trained.dataset
    with new_folder(out, replace=replace, mark="*.parquet") as folder, torch.no_grad():
        model, history = snapshot(trained.model), trained.history(*SPLITS)
        tiles = torch.arange(dataset.n_users).split(TILE)
        user_UD = torch.cat([user_vectors(model, user_B, history) for user_B in tiles])
        vectors = {
            "users": (dataset.user_keys(), user_UD),
            "items": (dataset.item_keys(), ranking_items(model, torch.arange(dataset.n_items))),
        }
        for name, (keys, vector) in vectors.items():
            table = pa.table({"key": keys, "vector": to_column(vector.numpy())})
            folder.write_table(f"{name}.parquet", table)
    return Folder.at(out)
