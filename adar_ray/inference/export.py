"""A trained model's vectors, for an index of one's own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from adar_ray.inference.model import TrainedModel
from adar_ray.storage import Folder, new_folder
from adar_ray.training.run import Run


def export(run: str | Path | Run, out: str | Path, *, replace: bool = False) -> Folder:
    """User and item vectors as `users.parquet` and `items.parquet`: `key, vector`, by dense id.

    The score of a pair is the dot product of its vectors.
    """
    run = Run.open(run)
    trained = TrainedModel.load(run)
    dataset = trained.dataset
    with new_folder(out, replace=replace, mark="*.parquet") as folder, torch.no_grad():
        vectors = {
            "users": (dataset.user_keys(), trained.model.users({"user": torch.arange(dataset.n_users)})),
            "items": (dataset.item_keys(), trained.model.items(torch.arange(dataset.n_items))),
        }
        for name, (keys, vector) in vectors.items():
            values = pa.array(vector.reshape(-1).numpy())
            column = pa.FixedSizeListArray.from_arrays(values, vector.shape[1])
            folder.write_table(f"{name}.parquet", pa.table({"key": keys, "vector": column}))
    return Folder.at(out)
