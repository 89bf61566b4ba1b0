"""Small datasets, written in this process without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from adar_ray.data.dataset import Dataset
from adar_ray.data.lanes import LANES, Homes, deal
from adar_ray.data.manifest import PreparedSource, RowCounts, SyntheticSettings, SyntheticSource
from adar_ray.data.sequences import Windows
from adar_ray.data.split import TRAIN, SplitProtocol, assign
from adar_ray.data.write import shard_count, write_manifest, write_shard
from adar_ray.storage import Folder


def make_dataset(
    out: Path, users: int = 130, items: int = 90, most: int = 40, rows_per_shard: int = 600, **windows: int
) -> Dataset:
    """Every user with 4 to `most` of the items, at random."""
    draw = np.random.default_rng(0)
    count_U = draw.integers(4, most, users)
    lane_U = deal(count_U, LANES)
    count_U = count_U[np.argsort(lane_U, kind="stable")]
    homes = Homes.of(lane_U, LANES, shard_count(int(count_U.sum()), rows_per_shard))
    user_E = np.repeat(np.arange(users), count_U)
    item_E = np.concatenate([draw.choice(items, count, replace=False) for count in count_U])
    timestamp_E = np.arange(len(user_E))
    protocol, made = SplitProtocol(protocol="ratio", seed=0), Windows(**windows)
    folder = Folder.at(out)
    shards = []
    for shard in range(homes.shards):
        rows = homes.shard_of(user_E) == shard
        user, item, timestamp = user_E[rows], item_E[rows], timestamp_E[rows]
        splits = assign(protocol, user, item, timestamp, np.full(len(user), TRAIN, np.int8), None)
        shards.append(write_shard(folder, shard, homes, splits, made, user, item, timestamp))
    settings = SyntheticSettings(users=users, items=items, interactions=len(user_E), seed=0)
    write_manifest(
        folder,
        name="made",
        source=SyntheticSource(synthetic=settings),
        split=protocol,
        windows=made,
        notes=[],
        homes=homes,
        shards=shards,
        user_keys=pa.array([f"u{user}" for user in range(users)]),
        item_keys=pa.array([f"i{item}" for item in range(items)]),
        user_counts=count_U,
        item_counts=np.bincount(item_E, minlength=items),
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
