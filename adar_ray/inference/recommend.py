"""Recommends items with a trained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, NonNegativeInt, PositiveInt

from adar_ray.data.dataset import SPLITS, Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.ids import Ids, keys_of
from adar_ray.inference.model import TrainedModel, left_out, user_items
from adar_ray.inference.new_items import NewItems
from adar_ray.inference.parts import PartWriter, parts_of, write_parts
from adar_ray.limits import LARGEST_K, check_number
from adar_ray.outputs import Kind, new_folder
from adar_ray.ray_address import joins_cluster
from adar_ray.storage import Folder
from adar_ray.training.run import Run

# Readers of Parquet folders skip names that begin with _.
UNKNOWN_USERS = "_unknown_users.txt"
INFO = "_recommendations.json"
KIND = Kind(INFO, (UNKNOWN_USERS, "[0-9][0-9][0-9][0-9][0-9]*.parquet"))

Progress = Callable[[int, int], None]


class RecommendationsInfo(BaseModel):
    """What a folder of recommendations says about itself, in `_recommendations.json`.

    Attributes:
        k: the most items of a user.
        users: that were asked for and are known to the model.
        unknown_users: that were asked for, and are no users of the model.
    """

    k: PositiveInt
    users: PositiveInt
    unknown_users: NonNegativeInt


@dataclass(frozen=True)
class Recommendations:
    """What `recommend` wrote, and for whom.

    Attributes:
        folder: of Parquet files.
        users: number of users that were asked for and are known; one who has seen every item gets no rows.
        untrained_users: how many of them have no training interactions, so that the model has learned nothing
            about them; for a sequential model, no interactions at all.
        untrained_items: how many of all items have no training interactions.
        unknown_users: the given keys that are no users of the model, each once. If there are any,
            `_unknown_users.txt` in the folder lists them, one a line.
        repeated_users: how many of the given keys had been given before.
        new_items: what was recommended beside the items of the dataset; None if nothing was.
    """

    folder: Folder
    users: int
    untrained_users: int
    untrained_items: int
    unknown_users: list[str]
    repeated_users: int
    new_items: NewItems | None


def recommend(
    run: str | Path | Run,
    out: str | Path,
    k: int = 20,
    users: Ids | None = None,
    *,
    replace: bool = False,
    data: str | Path | None = None,
    new_items: str | Path | None = None,
    trust: bool = False,
    on_progress: Progress = lambda done, total: None,
) -> Recommendations:
    """Writes the top k items of all users, or of the users with the given keys, to Parquet.

    Works in this process, or with Ray Data where a cluster is joined; the files are the same.

    Rows are `user, item, rank, score` with the source's ids, and `title` after `item` if items have titles;
    ranks start at 1. Items that the user has interacted with, in any split, are left out, unless the dataset
    keeps repeats. They are the history that a sequential model reads.

    Args:
        run: a run, or a copy of its `model/`.
        users: keys of users, as in the source. Each is answered once; unknown ones are reported.
        data: where the dataset of a run that is not finished is now, if it has moved.
        new_items: a file of items that were not there in training, with their features, to recommend beside
            the others. Only for `twotower`.
        trust: whether custom components that the folder names may run.
        on_progress: called with the number of users done and the number of all users.

    Raises:
        AdarError: none of the users is known, or `out` is not empty. Nothing is written.
    """
    check_number("--k", k, 1, LARGEST_K)
    trained = TrainedModel.load(run, data, new_items=new_items, trust=trust)
    dataset, history = trained.dataset, trained.history(*SPLITS)
    asked = None if users is None else keys_of("user", users)
    ids, unknown = (np.arange(dataset.n_users), []) if asked is None else _user_ids(dataset, asked)
    done = 0

    def on_part(users: int) -> None:
        nonlocal done
        done += users
        on_progress(done, len(ids))

    with new_folder(out, replace=replace, kind=KIND) as folder:
        names = dataset.user_keys(), trained.item_keys(), trained.item_titles()
        writer = PartWriter(trained.model, left_out(dataset, *SPLITS), history, *names, folder, k)
        if joins_cluster():
            from adar_ray.inference.ray_parts import write_parts_on_cluster

            write_parts_on_cluster(writer, parts_of(ids, k), trained.config.model.name, on_part)
        else:
            write_parts(writer, parts_of(ids, k), on_part)
        if unknown:
            folder.write_bytes(UNKNOWN_USERS, "".join(f"{key}\n" for key in unknown).encode())
        folder.write_record(INFO, RecommendationsInfo(k=k, users=len(ids), unknown_users=len(unknown)))
    learned_from = user_items(dataset, *SPLITS) if trained.sequential else trained.observed
    return Recommendations(
        folder=Folder.at(out),
        users=len(ids),
        untrained_users=int((learned_from.counts().numpy()[ids] == 0).sum()),
        untrained_items=int((trained.observed.item_counts() == 0).sum()),
        unknown_users=unknown,
        repeated_users=0 if asked is None else len(asked) - len(ids) - len(unknown),
        new_items=trained.new_items,
    )


def _user_ids(dataset: Dataset, keys: list[str]) -> tuple[np.ndarray, list[str]]:
    """The ids of users, each once, in the order of their keys; and the keys that no user has."""
    different = pa.array(dict.fromkeys(keys), pa.string())
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
