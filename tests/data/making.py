"""Small datasets, written in this process without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from adar_ray.data.dataset import CATEGORIES, Dataset
from adar_ray.data.lanes import LANES, Homes, deal
from adar_ray.data.manifest import SPLITS, PreparedSource, RowCounts, SyntheticSettings, SyntheticSource
from adar_ray.data.sequences import Windows
from adar_ray.data.split import TRAIN, SplitProtocol, assign
from adar_ray.data.write import shard_count, write_manifest, write_shard
from adar_ray.storage import Folder


def make_dataset(
    out: Path,
    users: int = 130,
    items: int = 90,
    most: int = 40,
    rows_per_shard: int = 600,
    features: bool = False,
    **windows: int,
) -> Dataset:
    """Every user with 4 to `most` of the items, at random.

    Args:
        features: whether most items have some.
    """
    draw = np.random.default_rng(0)
    count_U = draw.integers(4, most, users)
    lane_U = deal(count_U, LANES)
    count_U = count_U[np.argsort(lane_U, kind="stable")]
    homes = Homes.of(lane_U, LANES, shard_count(int(count_U.sum()), rows_per_shard))
    user_E = np.repeat(np.arange(users), count_U)
    item_E = np.concatenate([draw.choice(items, count, replace=False) for count in count_U])
    protocol, made = SplitProtocol(protocol="ratio", seed=0), Windows(**windows)
    split_E = assign(
        protocol, user_E, item_E, np.arange(len(user_E)), np.full(len(user_E), TRAIN, np.int8), None
    )
    user_keys, item_keys = [f"u{user}" for user in range(users)], [f"i{item}" for item in range(items)]
    about = None
    if features:
        kind = [None if item % 7 == 0 else [str(item % 5), "x"][: 1 + item % 2] for item in range(items)]
        size = [None if item % 3 == 0 else float(item) for item in range(items)]
        about = pa.table({"kind": pa.array(kind, CATEGORIES), "size": pa.array(size, pa.float64())})
    return _write(out, homes, protocol, made, user_keys, item_keys, user_E, item_E, split_E, about)


def make_split(out: Path, items: str, **splits: dict[str, str]) -> Dataset:
    """A dataset of exactly these interactions, in the order in which the user has them.

    Args:
        items: one letter each.
        splits: `train`, `valid` and `test`: the items of each user; training names all users.
    """
    keys = list(splits["train"])
    lane_U = deal(
        np.array([sum(len(split.get(user, "")) for split in splits.values()) for user in keys]), LANES
    )
    keys = [keys[user] for user in np.argsort(lane_U, kind="stable")]
    rows = [
        (number, items.index(item), SPLITS.index(split))
        for number, user in enumerate(keys)
        for split, of_users in splits.items()
        for item in of_users.get(user, "")
    ]
    user_E, item_E, split_E = np.array(rows).T
    protocol = SplitProtocol(protocol="ratio", seed=0)
    return _write(
        out, Homes.of(lane_U, LANES, 1), protocol, Windows(), keys, list(items), user_E, item_E, split_E
    )


def _write(
    out: Path,
    homes: Homes,
    protocol: SplitProtocol,
    made: Windows,
    user_keys: list[str],
    item_keys: list[str],
    user_E: np.ndarray,
    item_E: np.ndarray,
    split_E: np.ndarray,
    features: pa.Table | None = None,
) -> Dataset:
    timestamp_E = np.arange(len(user_E))
    folder = Folder.at(out)
    shards = []
    for shard in range(homes.shards):
        rows = homes.shard_of(user_E) == shard
        shards.append(
            write_shard(
                folder, shard, homes, split_E[rows], made, user_E[rows], item_E[rows], timestamp_E[rows]
            )
        )
    settings = SyntheticSettings(users=len(user_keys), items=len(item_keys), interactions=len(user_E), seed=0)
    write_manifest(
        folder,
        name="made",
        source=SyntheticSource(synthetic=settings),
        split=protocol,
        windows=made,
        notes=[],
        homes=homes,
        shards=shards,
        user_keys=pa.array(user_keys),
        item_keys=pa.array(item_keys),
        user_counts=np.bincount(user_E, minlength=len(user_keys)),
        item_counts=np.bincount(item_E, minlength=len(item_keys)),
        item_features=features,
    )
    return Dataset.open(out)


def with_times(dataset: Dataset) -> Dataset:
    """The dataset as if it had been prepared from a source with times."""
    none = dict.fromkeys(RowCounts.model_fields, 0)
    source = PreparedSource(
        address="a.csv",
        format="csv",
        files=1,
        columns={},
        rows=RowCounts(**none),
        repeat="first",
        interactions_in_time_order="timestamp",
        min_rating=None,
        core=0,
    )
    return Dataset(dataset.folder, dataset.manifest.model_copy(update={"source": source}))
