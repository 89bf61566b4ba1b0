"""Exports a trained model's vectors, for a vector index."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from adar_ray.data.matrix import to_column
from adar_ray.inference.model import TrainedModel
from adar_ray.outputs import new_folder
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
    with new_folder(out, replace=replace, mark="*.parquet") as folder:
        vectors = {
            "users": (dataset.user_keys(), trained.user_vectors),
            "items": (dataset.item_keys(), trained.item_vectors),
        }
        for name, (keys, vector) in vectors.items():
            table = pa.table({"key": keys, "vector": to_column(vector.numpy())})
            folder.write_table(f"{name}.parquet", table)
    return Folder.at(out)
