"""Writing a dataset: shards in parallel, then the id maps and the manifest that completes it."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.dataset import SHARD_SCHEMA, SINCE, Dataset
from adar_ray.data.lanes import Homes
from adar_ray.data.manifest import (
    FEATURES,
    ITEMS,
    MANIFEST,
    SEQUENCES,
    SPLITS,
    TITLES,
    USERS,
    Counts,
    Lanes,
    Manifest,
    PreparedSource,
    Sequences,
    SyntheticSource,
    count_rows,
    kind_of,
)
from adar_ray.data.matrix import to_column
from adar_ray.data.sequences import Windows
from adar_ray.data.split import TRAIN, SplitProtocol
from adar_ray.storage import FileEntry, Folder

ROWS_PER_SHARD = 1 << 20
MOST_SHARDS = 1 << 12  # of up to five files each; a manifest of more could not be read back
_REPETITIVE = ["item"]


def shard_count(rows: int, rows_per_shard: int) -> int:
    """The number of shards of about as many rows each; at least one, and as many as a manifest can name."""
    return min(max(1, -(-rows // rows_per_shard)), MOST_SHARDS)


@dataclass(frozen=True)
class WrittenShard:
    """The files of one shard, and the training and sequence rows of each lane in it, `[L]`.

    `weight` is the sum of the weights of its training interactions, if they have any.
    """

    files: list[FileEntry]
    train: list[int]
    sequences: list[int]
    weight: float | None = None


def write_shard(
    folder: Folder,
    shard: int,
    homes: Homes,
    splits: np.ndarray,
    windows: Windows,
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    weight: np.ndarray | None = None,
) -> WrittenShard:
    """Write the rows of one shard: one file per split and one of sequence rows.

    Files that would be empty are not written.

    Args:
        folder: the dataset.
        shard: number of the shard.
        homes: where its users live.
        splits: the split of each row (see `split.assign`).
        windows: which sequence rows to make.
        user, item, timestamp, weight: the rows, sorted by user and time.
    """
    table = pa.table({"user": user, "item": item, "timestamp": timestamp}).cast(SHARD_SCHEMA)
    if weight is not None:
        table = table.append_column("weight", pa.array(weight, pa.float32()))
    files = []
    for code, name in enumerate(SPLITS):
        rows = table.filter(pa.array(splits == code))
        if rows.num_rows:
            files.append(folder.write_table(f"{name}/{shard:05d}.parquet", rows, _REPETITIVE))
    trained = splits == TRAIN
    owner, items = windows.rows(user[trained], item[trained])
    if len(owner):
        rows = pa.table({"user": owner, "items": to_column(items)})
        files.append(folder.write_table(f"{SEQUENCES}/{shard:05d}.parquet", rows))
    total = None if weight is None else float(weight[trained].sum(dtype=np.float64))
    return WrittenShard(files, homes.count(user[trained]).tolist(), homes.count(owner).tolist(), total)


def write_manifest(
    folder: Folder,
    *,
    name: str,
    source: PreparedSource | SyntheticSource,
    split: SplitProtocol,
    windows: Windows,
    notes: list[str],
    homes: Homes,
    shards: list[WrittenShard],
    user_keys: pa.Array,
    item_keys: pa.Array,
    user_counts: np.ndarray,
    item_counts: np.ndarray,
    item_titles: pa.Array | None = None,
    item_features: pa.Table | None = None,
) -> None:
    """Write the id maps and, last, `dataset.json`.

    Args:
        folder: the dataset.
        name: of the dataset.
        source, split, windows, notes: what the manifest says about them.
        homes: where the users live.
        shards: what was written, in any order.
        user_keys, item_keys: the source's own ids, by dense id.
        user_counts, item_counts: interactions of each user and item.
        item_titles: null where an item has none.
        item_features: as `Dataset.item_features` returns them.
    """
    kinds = (*SPLITS, SEQUENCES)
    files = [file for shard in shards for file in shard.files]
    files.sort(key=lambda file: (kinds.index(kind_of(file)), file.name))
    maps = [
        folder.write_table(
            f"{kind}s.parquet",
            pa.table(
                {
                    kind: pa.array(np.arange(len(keys), dtype=np.int32)),
                    "key": keys,
                    "interactions": pa.array(counts.astype(np.int64)),
                }
            ),
        )
        for kind, keys, counts in (("user", user_keys, user_counts), ("item", item_keys, item_counts))
    ]
    if item_titles is not None and item_titles.null_count < len(item_titles):
        ids = pa.array(np.arange(len(item_titles), dtype=np.int32))
        titles = pa.table({"item": ids, "title": item_titles}).filter(item_titles.is_valid())
        maps.append(folder.write_table(TITLES, titles))
    if item_features is not None:
        ids = pa.array(np.arange(len(item_features), dtype=np.int32))
        has_some = functools.reduce(pc.or_, (column.is_valid() for column in item_features.columns))
        maps.append(folder.write_table(FEATURES, item_features.add_column(0, "item", ids).filter(has_some)))
    weights = [shard.weight for shard in shards if shard.weight is not None]
    manifest = Manifest(
        name=name,
        source=source,
        split=split.record(),
        counts=Counts(
            users=len(user_keys),
            items=len(item_keys),
            interactions=count_rows(files, *SPLITS),
            train=count_rows(files, "train"),
            valid=count_rows(files, "valid"),
            test=count_rows(files, "test"),
        ),
        sequences=Sequences(**asdict(windows), rows=count_rows(files, SEQUENCES)),
        lanes=Lanes(
            groups=homes.groups,
            users=np.diff(homes.bounds).tolist(),
            train=_sum([shard.train for shard in shards]),
            sequences=_sum([shard.sequences for shard in shards]),
        ),
        mean_weight=math.fsum(weights) / count_rows(files, "train") if weights else None,
        notes=notes,
        files=maps + files,
    )
    folder.write_record(MANIFEST, manifest)


def _sum(rows: list[list[int]]) -> list[int]:
    return [int(total) for total in np.sum(rows, axis=0)]


def copy_interactions(
    dataset: Dataset, folder: Folder, *, with_times: bool, with_features: bool = False
) -> None:
    """Write a dataset's id maps, titles and interactions, one shard after the other, as a dataset of its own.

    It has no sequence rows, features of items only `with_features`, and without `with_times` no weights and
    no times but that of each user's first interaction. The shards keep their order.
    """
    columns: dict[str, list[str] | None] = dict.fromkeys(SPLITS, None if with_times else ["user", "item"])
    columns |= {USERS: ["user", "key", "interactions"], ITEMS: None, TITLES: None}
    columns |= {FEATURES: None} if with_features else {}
    first_U = dataset.first_times()
    files = []
    for file in dataset.manifest.files:
        kind = kind_of(file)
        if kind in columns:
            table = dataset.read_file(file.name, columns[kind])
            if kind == USERS and first_U is not None:
                table = table.append_column(SINCE, pa.array(first_U))
            files.append(folder.write_table(file.name, table, _REPETITIVE if kind in SPLITS else None))
    without_rows: dict[str, Any] = {
        "sequences": dataset.sequences.model_copy(update={"rows": 0}),
        "lanes": dataset.lanes.model_copy(update={"sequences": [0] * len(dataset.lanes.users)}),
    }
    if not with_times:
        without_rows["mean_weight"] = None
    manifest = dataset.manifest.model_copy(update={**without_rows, "files": files})
    folder.write_record(MANIFEST, manifest)
