"""Recommends items with a trained model.

Legend: B users of a tile, k items per user.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from adar_ray.inference.model import TrainedModel, left_out, user_items
from adar_ray.memory import keep_freed_memory
from adar_ray.outputs import new_folder
from adar_ray.ranking.top_items import TILE, top_items
from adar_ray.ray_session import ray_session
from adar_ray.storage import Folder
from adar_ray.training.run import Run

USERS_A_TASK = 64 * TILE
UNKNOWN_USERS = "_unknown_users.txt"  # readers of Parquet folders skip names that begin with _

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recommendations:
    """What `recommend` wrote, and for whom.

    Attributes:
        folder: of Parquet files.
        users: number of users that have recommendations.
        untrained_users: how many of them have no training interactions, so that the model has learned nothing
            about them; for a sequential model, no interactions at all.
        untrained_items: how many of all items have no training interactions.
        unknown_users: the given keys that are no users of the model, each once. If there are any,
            `_unknown_users.txt` in the folder lists them, one a line.
        repeated_users: how many of the given keys had been given before.
    """

    folder: Folder
    users: int
    untrained_users: int
    untrained_items: int
    unknown_users: list[str]
    repeated_users: int


def recommend(
    run: str | Path | Run,
    out: str | Path,
    k: int = 20,
    users: Sequence[str] | None = None,
    *,
    replace: bool = False,
    data: str | Path | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Recommendations:
    """Writes the top k items of all users, or of the users with the given keys, to Parquet, with Ray Data.

    Rows are `user, item, rank, score` with the source's ids; ranks start at 1. Items that the user has
    interacted with, in any split, are left out, unless the dataset keeps repeats. They are the history that a
    sequential model reads.

    Args:
        run: a run, or a copy of its `model/`.
        users: keys of users, as in the source. Each is answered once; unknown ones are reported.
        data: where the dataset of a run that is not finished is now, if it has moved.
        on_progress: called with the number of users done and the number of all users.

    Raises:
        AdarError: none of the users is known, or `out` is not empty. Nothing is written.
    """
    trained = TrainedModel.load(run, data)
    dataset, history = trained.dataset, trained.history(*SPLITS)
    ids, unknown = (np.arange(dataset.n_users), []) if users is None else _user_ids(dataset, users)
    starts = range(0, len(ids), USERS_A_TASK)
    parts = [{"part": part, "users": ids[start : start + USERS_A_TASK]} for part, start in enumerate(starts)]
    known = user_items(dataset, *SPLITS)
    with new_folder(out, replace=replace, mark="*.parquet") as folder, ray_session():
        keys = dataset.user_keys(), dataset.item_keys()
        shared = ray.put((trained.model, left_out(dataset, *SPLITS), history, keys))
        rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            functools.partial(_recommend_part, shared, folder, k, trained.config.model.name, search_path()),
            batch_size=1,
            batch_format="numpy",
        )
        done = 0
        for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):
            done += int(batch["users"].sum())
            on_progress(done, len(ids))
        if unknown:
            folder.write_bytes(UNKNOWN_USERS, "".join(f"{key}\n" for key in unknown).encode())
    learned_from = known if trained.sequential else trained.observed
    return Recommendations(
        folder=Folder.at(out),
        users=len(ids),
        untrained_users=int((learned_from.counts().numpy()[ids] == 0).sum()),
        untrained_items=int((trained.observed.item_counts() == 0).sum()),
        unknown_users=unknown,
        repeated_users=0 if users is None else len(users) - len(ids) - len(unknown),
    )


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


def _user_ids(dataset: Dataset, keys: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The ids of users, each once, in the order of their keys; and the keys that no user has."""
    different = pa.array(dict.fromkeys(str(key) for key in keys), pa.string())
    ids = pc.index_in(different, value_set=dataset.user_keys().combine_chunks())
    unknown = different.filter(ids.is_null()).to_pylist()
    if not len(ids):
        raise AdarError("users: none are given; give ids of the source")
    if len(unknown) == len(ids):
        raise AdarError(
            f"{dataset.folder}/users.parquet: lists none of the given users, such as {unknown[0]!r}; "
            "give ids of the source"
        )
    return ids.drop_null().to_numpy(), unknown
