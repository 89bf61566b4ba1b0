"""A trained model put to use: evaluated, asked for recommendations, exported.

Legend: B users of a tile, k items a user, D dimensions.
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
import torch

from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError
from adar_ray.models import BaseModel
from adar_ray.ranking.evaluate import tally_users
from adar_ray.ranking.top_items import TILE, top_items
from adar_ray.storage import Folder, new_folder
from adar_ray.training.build import build_model
from adar_ray.training.run import Run
from adar_ray.user_items import UserItems

KS = (10, 20, 50)
USERS_A_TASK = 64 * TILE

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainedModel:
    """A run's best model, ready to rank.

    Attributes:
        observed: the interactions it was trained on.
    """

    model: BaseModel
    observed: UserItems
    dataset: Dataset

    @classmethod
    def load(cls, run: Run) -> TrainedModel:
        dataset = run.dataset()
        observed = user_items(dataset, "train")
        model = build_model(run.config, observed)
        model.load_state_dict(run.weights())
        model.eval()
        return cls(model, observed, dataset)


def user_items(dataset: Dataset, *splits: str) -> UserItems:
    """All interactions of the given splits."""
    parts = [dataset.read_split(split) for split in splits]
    user, item = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return UserItems(user, item, dataset.n_users, dataset.n_items)


def evaluate(run: str | Path | Run, split: str = "test", ks: Sequence[int] = KS) -> dict[str, Any]:
    """Ranks every item for every user of the split; writes `RUN/evaluation/SPLIT.json` and returns it.

    Training items are left out of the ranking, for test those of validation too. Users with nothing
    in the split have nothing to be found and are not counted.

    Raises:
        AdarError: the dataset has no such split, or has changed since training.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    trained = TrainedModel.load(run)
    truth = user_items(trained.dataset, split)
    if not len(truth):
        raise AdarError(f"{trained.dataset.folder}: has no interactions in {split}; evaluate another --split")
    # Validation comes out of training: for test it is as known as training itself.
    known = (
        user_items(trained.dataset, *SPLITS[: SPLITS.index(split)]) if split != "train" else _nothing(truth)
    )
    tally = tally_users(trained.model, known, truth, ks)
    result = {
        "split": split,
        "users": int(tally.users),
        "metrics": tally.metrics(trained.observed.item_counts()),
    }
    run.folder.write_json(f"evaluation/{split}.json", result)
    return result


def recommend(
    run: str | Path | Run,
    out: str | Path,
    k: int = 20,
    users: Sequence[str] | None = None,
    *,
    replace: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Folder:
    """The top k items of all users, or of those given by their keys, as Parquet, through Ray Data.

    Rows of `user, item, rank, score` with the source's own ids; rank counts from 1. What a user has
    interacted with, in whatever split, is left out.

    Returns:
        The folder of Parquet files.
    """
    import ray
    import ray.data

    from adar_ray.ray_session import ray_session

    run = run if isinstance(run, Run) else Run.open(run)
    trained = TrainedModel.load(run)
    dataset = trained.dataset
    ids = np.arange(dataset.n_users) if users is None else _user_ids(dataset, users)
    starts = range(0, len(ids), USERS_A_TASK)
    parts = [{"part": part, "users": ids[start : start + USERS_A_TASK]} for part, start in enumerate(starts)]
    with new_folder(out, replace=replace, what="folder") as folder, ray_session():
        keys = dataset.user_keys(), dataset.item_keys()
        shared = ray.put((trained.model, user_items(dataset, *SPLITS), keys))
        rows = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            functools.partial(_recommend_part, shared, folder, k), batch_size=1, batch_format="numpy"
        )
        done = 0
        for batch in rows.iter_batches(batch_size=None, batch_format="numpy"):
            done += int(batch["users"].sum())
            on_progress(done, len(ids))
    return Folder.at(out)


def export(run: str | Path | Run, out: str | Path, *, replace: bool = False) -> Folder:
    """User and item vectors as `users.parquet` and `items.parquet`: `key, vector`, by dense id.

    The score of a pair is the dot product of its vectors.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    trained = TrainedModel.load(run)
    dataset = trained.dataset
    with new_folder(out, replace=replace, what="folder") as folder, torch.no_grad():
        vectors = {
            "users": (dataset.user_keys(), trained.model.users({"user": torch.arange(dataset.n_users)})),
            "items": (dataset.item_keys(), trained.model.items(torch.arange(dataset.n_items))),
        }
        for name, (keys, vector) in vectors.items():
            values = pa.array(vector.reshape(-1).numpy())
            column = pa.FixedSizeListArray.from_arrays(values, vector.shape[1])
            folder.write_table(f"{name}.parquet", pa.table({"key": keys, "vector": column}))
    return Folder.at(out)


def _recommend_part(
    shared: Any, folder: Folder, k: int, batch: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Ranks and writes one part of the users, in a Ray Data task."""
    import ray

    torch.set_num_threads(1)
    model, known, keys = ray.get(shared)
    (part,), (users,) = batch["part"], batch["users"]
    tiles = top_items(model, torch.from_numpy(np.asarray(users, dtype=np.int64)), known, k, known.n_items)
    folder.write_table(f"{part:05d}.parquet", pa.concat_tables(_rows(*keys, *tile) for tile in tiles))
    return {"users": np.array([len(users)])}


def _rows(
    user_keys: pa.ChunkedArray,
    item_keys: pa.ChunkedArray,
    user_B: torch.Tensor,
    item_Bk: torch.Tensor,
    score_Bk: torch.Tensor,
) -> pa.Table:
    k = item_Bk.shape[1]
    there = (score_Bk > -torch.inf).flatten().numpy()
    return pa.table(
        {
            "user": user_keys.take(pa.array(np.repeat(user_B.numpy(), k)[there])),
            "item": item_keys.take(pa.array(item_Bk.flatten().numpy()[there])),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), len(user_B))[there],
            "score": score_Bk.flatten().numpy()[there],
        }
    )


def _user_ids(dataset: Dataset, keys: Sequence[str]) -> np.ndarray:
    ids = pc.index_in(pa.array([str(key) for key in keys]), value_set=dataset.user_keys().combine_chunks())
    if ids.null_count:
        unknown = [str(key) for key, known in zip(keys, ids.is_valid().to_pylist(), strict=True) if not known]
        raise AdarError(
            f"{dataset.folder}: knows no user {unknown[0]!r}"
            + (f", nor {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + "; the ids are those of the source, in users.parquet"
        )
    return ids.to_numpy()


def _nothing(like: UserItems) -> UserItems:
    empty = torch.empty(0, dtype=torch.int64)
    return UserItems(empty, empty, like.n_users, like.n_items)
