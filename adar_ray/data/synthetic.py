"""Made-up worlds, of any size, in which it is known what every user would like.

A user and an item are points; a user likes the items that score above his threshold, a fixed share of
the catalog. He comes across items by their popularity, which is skewed, and interacts with those he
likes. What he would have liked but never came across is the truth that real data cannot tell: the false
negatives of a sampler.

Legend: U users of a shard, C items that a user comes across, D dimensions.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import ray.data

from adar_ray.data.dataset import MANIFEST, SPLITS, Dataset
from adar_ray.data.matrix import to_column, to_matrix
from adar_ray.data.sequences import Windows
from adar_ray.data.split import TRAIN, SplitProtocol
from adar_ray.data.write import (
    ROWS_PER_SHARD,
    count_rows,
    shard_count,
    shard_of,
    write_manifest,
    write_shard,
)
from adar_ray.errors import AdarError
from adar_ray.ray_session import ray_session
from adar_ray.storage import Folder, new_folder

DIM = 16
LIKED_SHARE = 0.1
POPULARITY_EXPONENT = 0.8
ACTIVITY_SIGMA = 0.8
CANDIDATES_AN_INTERACTION = 3 / LIKED_SHARE
SAMPLE = 4096  # items by which a user's threshold is found
START_OF_TIME = 1_600_000_000
VALUES_A_BLOCK = 1 << 25  # bounds the scores held at once

TRUTH = "truth"


class Truth:
    """What the users of a synthetic dataset like, seen or not.

    A user likes an item if the dot product of their vectors is at least the user's threshold.
    """

    def __init__(self, user_UD: np.ndarray, threshold_U: np.ndarray, item_ID: np.ndarray) -> None:
        self.user_UD, self.threshold_U, self.item_ID = user_UD, threshold_U, item_ID

    @classmethod
    def open(cls, dataset: str | Path | Dataset) -> Truth:
        """Reads the truth that lies beside the shards of a synthetic dataset."""
        folder = Dataset.open(dataset).folder.folder(TRUTH)
        if not folder.exists("users.parquet"):
            raise AdarError(
                f"{folder}: is missing; only datasets of `adar-ray data synthetic` know the truth"
            )
        users, items = folder.read_table("users.parquet"), folder.read_table("items.parquet")
        return cls(to_matrix(users["vector"]), users["threshold"].to_numpy(), to_matrix(items["vector"]))

    def likes(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each user likes the item of the same position."""
        score = np.einsum("ed,ed->e", self.user_UD[user], self.item_ID[item])
        return score >= self.threshold_U[user]


def synthesize(
    users: int,
    items: int,
    interactions: int,
    seed: int,
    out: str | Path,
    *,
    replace: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    on_progress: Callable[[str, int], None] = lambda stage, rows: None,
) -> Dataset:
    """Writes a synthetic dataset, its shards in parallel, and its truth in `DATA/truth/`.

    The split is by ratio. Every user has at least one interaction; an item may have none.

    Raises:
        AdarError: so many interactions cannot be dealt to so few users and items.
    """
    if interactions < users:
        raise AdarError(f"--interactions {interactions:,} is fewer than one for each of {users:,} users")
    most = items // 2
    if interactions > users * most:
        raise AdarError(
            f"--interactions {interactions:,} is more than {users:,} users with half of {items:,} items each "
            f"can have ({users * most:,}); lower it, or raise --users or --items"
        )
    split, windows = SplitProtocol(protocol="ratio", seed=seed), Windows()
    item_ID, popularity_I = _make_items(items, seed)
    activity_U = _make_activity(users, interactions, most, seed)
    shards = shard_count(interactions, rows_per_shard)
    with new_folder(out, replace=replace, mark=MANIFEST) as folder, ray_session():
        world = ray.put((item_ID, popularity_I, activity_U))
        numbers = ray.data.from_items([{"shard": n} for n in range(shards)], override_num_blocks=shards)
        made = numbers.map_batches(
            functools.partial(_make_shard, folder, world, shards, split, windows, seed),
            batch_size=None,
            batch_format="pyarrow",
        )
        entries, item_counts, parts = [], np.zeros(items, np.int64), []
        for part in made.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in part.to_pylist():
                entries += json.loads(row["entries"])
                np.add.at(item_counts, row["item"], row["count"])
                parts.append((np.array(row["user"]), np.array(row["threshold"]), np.array(row["vector"])))
            on_progress("making", count_rows(entries, *SPLITS))
        _write_truth(folder, parts, item_ID)
        write_manifest(
            folder,
            name=f"synthetic-{users}x{items}",
            source={
                "synthetic": {"users": users, "items": items, "interactions": interactions, "seed": seed}
            },
            split=split,
            windows=windows,
            notes=[],
            shards=entries,
            user_keys=pa.array(np.arange(users)).cast(pa.string()),
            item_keys=pa.array(np.arange(items)).cast(pa.string()),
            user_counts=activity_U,
            item_counts=item_counts,
        )
    return Dataset.open(out)


def _make_items(items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, and the cumulative probability of coming across each item."""
    random = np.random.default_rng([seed, 0])
    weight = (random.permutation(items) + 1.0) ** -POPULARITY_EXPONENT
    return random.standard_normal((items, DIM), dtype=np.float32), np.cumsum(weight / weight.sum())


def _make_activity(users: int, interactions: int, most: int, seed: int) -> np.ndarray:
    """Interactions of each user: log-normal, from 1 to `most`, and so many in all."""
    random = np.random.default_rng([seed, 1])
    weight = random.lognormal(sigma=ACTIVITY_SIGMA, size=users)
    counts = np.clip((weight / weight.sum() * interactions).astype(np.int64), 1, most)
    while missing := interactions - int(counts.sum()):
        # Rounding and clipping leave a difference: deal it out, one each, to users who have room.
        room = np.flatnonzero(counts < most) if missing > 0 else np.flatnonzero(counts > 1)
        chosen = random.permutation(room)[: abs(missing)]
        counts[chosen] += np.sign(missing)
    return counts


def _make_shard(
    folder: Folder,
    world: ray.ObjectRef,
    shards: int,
    split: SplitProtocol,
    windows: Windows,
    seed: int,
    block: pa.Table,
) -> pa.Table:
    item_ID, popularity_I, activity_U = ray.get(world)
    (shard,) = block["shard"].to_pylist()
    everyone = np.arange(len(activity_U))
    user_U = everyone[shard_of(everyone, shards) == shard]
    random = np.random.default_rng([seed, 2, shard])
    user_UD = random.standard_normal((len(user_U), DIM), dtype=np.float32)
    sample = random.choice(len(item_ID), min(SAMPLE, len(item_ID)), replace=False)
    threshold_U = np.empty(len(user_U), np.float32)
    rows = []
    # Users of similar activity together, so that little of the rectangle of candidates is wasted.
    by_activity = np.argsort(activity_U[user_U], kind="stable")
    start = 0
    while start < len(by_activity):
        width = int(activity_U[user_U[by_activity[start]]] * CANDIDATES_AN_INTERACTION) + 64
        size = max(1, VALUES_A_BLOCK // max(len(sample), min(2 * width, len(item_ID)) * DIM))
        chosen = by_activity[start : start + size]
        score = user_UD[chosen] @ item_ID[sample].T
        threshold_U[chosen] = np.quantile(score, 1 - LIKED_SHARE, axis=1)
        count = activity_U[user_U[chosen]]
        item, owner = _choose_items(
            random, user_UD[chosen], threshold_U[chosen], count, item_ID, popularity_I
        )
        rows.append((user_U[chosen][owner], item))
        start += size
    user, item = (np.concatenate(part) for part in zip(*rows, strict=True))
    timestamp = START_OF_TIME + random.integers(0, 1 << 26, len(user))
    order = np.lexsort((timestamp, user))
    given = np.full(len(user), TRAIN, np.int8)
    entries = write_shard(
        folder, shard, split, windows, user[order], item[order], timestamp[order], given, None
    )
    items, counts = np.unique(item, return_counts=True)
    return pa.table(
        {
            "entries": [json.dumps(entries)],
            "item": [items],
            "count": [counts],
            "user": [user_U],
            "threshold": [threshold_U],
            "vector": [user_UD.ravel()],
        }
    )


def _choose_items(
    random: np.random.Generator,
    user_UD: np.ndarray,
    threshold_U: np.ndarray,
    count_U: np.ndarray,
    item_ID: np.ndarray,
    popularity_I: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct items for each user, and which user each is for.

    He comes across items by popularity and takes those he likes, in that order. Where he has not come
    across enough of them, he takes the best scored of the others.
    """
    users, items = len(user_UD), len(item_ID)
    width = int(count_U.max() * CANDIDATES_AN_INTERACTION) + 64
    if width * 2 > items:
        # Nearly everything: come across all of it, in a random order that favors the popular.
        weight = np.diff(popularity_I, prepend=0.0)
        arrival = random.exponential(size=(users, items)) / weight
        item_UC = np.argsort(arrival, axis=1)
    else:
        item_UC = np.searchsorted(popularity_I, random.random((users, width))).clip(max=items - 1)
    score_UC = np.einsum("ud,ucd->uc", user_UD, item_ID[item_UC])
    width = item_UC.shape[1]
    liked_UC = score_UC >= threshold_U[:, None]
    rank_UC = np.where(liked_UC, np.arange(width), 2 * width - score_UC)
    rank_UC[_repeated(item_UC)] = np.inf
    order_UC = np.argsort(rank_UC, axis=1, kind="stable")
    taken_UC = np.arange(width) < count_U[:, None]
    owner = np.nonzero(taken_UC)[0]
    return np.take_along_axis(item_UC, order_UC, 1)[taken_UC], owner


def _repeated(item_UC: np.ndarray) -> np.ndarray:
    """Where a row holds an item that stands further left already."""
    order = np.argsort(item_UC, axis=1, kind="stable")
    in_order = np.take_along_axis(item_UC, order, 1)
    again = np.zeros_like(item_UC, dtype=bool)
    again[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    result = np.empty_like(again)
    np.put_along_axis(result, order, again, 1)
    return result


def _write_truth(folder: Folder, parts: list[tuple[np.ndarray, ...]], item_ID: np.ndarray) -> None:
    user, threshold, vector = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(user)
    user_UD = vector.reshape(-1, DIM)[order].astype(np.float32)
    truth = folder.folder(TRUTH)
    truth.write_table(
        "users.parquet",
        pa.table({"vector": to_column(user_UD), "threshold": threshold[order].astype(np.float32)}),
    )
    truth.write_table("items.parquet", pa.table({"vector": to_column(item_ID)}))
