"""Recommends items with a trained model.

Legend: B users of a tile, k items per user.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import torch

from adar_ray.custom import find_custom, is_custom, look_in, search_path
from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.model import TrainedModel, user_items
from adar_ray.memory import keep_freed_memory
from adar_ray.outputs import new_folder
from adar_ray.ranking.top_items import TILE, top_items
from adar_ray.ray_session import ray_session
from adar_ray.storage import Folder
from adar_ray.training.run import Run

USERS_A_TASK = 64 * TILE

Progress = Callable[[int, int], None]


def recommend(
    run: str | Path | Run,
    out: str | Path,
    k: int = 20,
    users: Sequence[str] | None = None,
    *,
    replace: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Folder:
    """Writes the top k items of all users, or of the users with the given keys, to Parquet, with Ray Data.

    Rows are `user, item, rank, score` with the source's ids; ranks start at 1. Items that the user has
    interacted with, in any split, are left out. They are the history that a sequential model reads.

    Args:
        users: keys of users, as in the source.
        on_progress: called with the number of users done and the number of all users.

    Returns:
        The folder of Parquet files.
    """
    run = Run.open(run)
    trained = TrainedModel.load(run)
    dataset = trained.dataset
    ids = np.arange(dataset.n_users) if users is None else _user_ids(dataset, users)
    starts = range(0, len(ids), USERS_A_TASK)
    parts = [{"part": part, "users": ids[start : start + USERS_A_TASK]} for part, start in enumerate(starts)]
    with new_folder(out, replace=replace, mark="*.parquet") as folder, ray_session():
        keys = dataset.user_keys(), dataset.item_keys()
        shared = ray.put((trained.model, user_items(dataset, *SPLITS), trained.history(*SPLITS), keys))
        rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            functools.partial(_recommend_part, shared, folder, k, run.config.model.name, search_path()),
            batch_size=1,
            batch_format="numpy",
        )
        done = 0
        for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):
            done += int(batch["users"].sum())
            on_progress(done, len(ids))
    return Folder.at(out)


def _recommend_part(
    shared: Any, folder: Folder, k: int, name: str, modules: list[str], batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Ranks and writes one part of the users. Runs in a Ray Data task."""
    torch.set_num_threads(1)
    keep_freed_memory()
    look_in(modules)
    if is_custom(name):  # if unpickling fails, Ray Data retries without end; an AdarError ends the task
        find_custom("model.name", name)
    model, known, history, (user_keys, item_keys) = ray.get(shared)
    (part,), (users,) = batch["part"], batch["users"]
    user = torch.from_numpy(np.asarray(users, dtype=np.int64))
    tiles = top_items(model, user, known, k, known.n_items, history)
    rows = pa.concat_tables(_rows(user_keys, item_keys, *tile) for tile in tiles)
    folder.write_table(f"{part:05d}.parquet", rows)
    return {"users": np.array([len(users)])}


def _rows(
    user_keys: pa.ChunkedArray,
    item_keys: pa.ChunkedArray,
    user_B: torch.Tensor,
    item_Bk: torch.Tensor,
    score_Bk: torch.Tensor,
) -> pa.Table:
    k = item_Bk.shape[1]
    is_item = (score_Bk > -torch.inf).flatten().numpy()
    return pa.table(
        {
            "user": user_keys.take(pa.array(np.repeat(user_B.numpy(), k)[is_item])),
            "item": item_keys.take(pa.array(item_Bk.flatten().numpy()[is_item])),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(user_B))[is_item],
            "score": score_Bk.flatten().numpy()[is_item],
        }
    )


def _user_ids(dataset: Dataset, keys: Sequence[str]) -> np.ndarray:
    ids = pc.index_in(pa.array([str(key) for key in keys]), value_set=dataset.user_keys().combine_chunks())
    if ids.null_count:
        unknown = [str(key) for key, known in zip(keys, ids.is_valid().to_pylist(), strict=True) if not known]
        raise AdarError(
            f"{dataset.folder}: has no user {unknown[0]!r}"
            + (f" (unknown ids: {len(unknown)})" if len(unknown) > 1 else "")
            + "; give ids of the source, which users.parquet lists"
        )
    return ids.to_numpy()
