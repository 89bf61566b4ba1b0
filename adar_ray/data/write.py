"""Writing a dataset: shards in parallel, then the id maps and the manifest that completes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from adar_ray.data.dataset import MANIFEST, SCHEMA_VERSION, SEQUENCES, SHARD_SCHEMA, SPLITS
from adar_ray.data.matrix import to_column
from adar_ray.data.sequences import Windows
from adar_ray.data.split import TRAIN, SplitProtocol, assign, hash_pairs
from adar_ray.storage import Folder

ROWS_PER_SHARD = 1 << 20


def shard_count(rows: int, rows_per_shard: int = ROWS_PER_SHARD) -> int:
    return max(1, -(-rows // rows_per_shard))


def shard_of(user: np.ndarray, shards: int) -> np.ndarray:
    """The shard of each user: random, so that a shard is a fair sample of users."""
    return (hash_pairs(user, 0, 0) % np.uint64(shards)).astype(np.int32)


def write_shard(
    folder: Folder,
    shard: int,
    split: SplitProtocol,
    windows: Windows,
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    given: np.ndarray,
    cuts: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    """Splits one shard's rows, sorted by user and time, and writes a file a split and one of sequence rows.

    Returns:
        The files' entries for the manifest; none of a file that would hold nothing.
    """
    table = pa.table({"user": user, "item": item, "timestamp": timestamp}).cast(SHARD_SCHEMA)
    splits = assign(split, user, item, timestamp, given, cuts)
    entries = []
    for code, name in enumerate(SPLITS):
        rows = table.filter(pa.array(splits == code))
        if rows.num_rows:
            entries.append(folder.write_table(f"{name}/{shard:05d}.parquet", rows))
    trained = splits == TRAIN
    owner, items = windows.rows(user[trained], item[trained])
    if len(owner):
        rows = pa.table({"user": owner, "items": to_column(items)})
        entries.append(folder.write_table(f"{SEQUENCES}/{shard:05d}.parquet", rows))
    return entries


def count_rows(shards: Iterable[dict[str, Any]], *kinds: str) -> int:
    """Rows of the shards of these kinds, which are splits or `SEQUENCES`."""
    return sum(file["rows"] for file in shards if file["name"].partition("/")[0] in kinds)


def write_manifest(
    folder: Folder,
    *,
    name: str,
    source: dict[str, Any],
    split: SplitProtocol,
    windows: Windows,
    notes: list[str],
    shards: list[dict[str, Any]],
    user_keys: pa.Array,
    item_keys: pa.Array,
    user_counts: np.ndarray,
    item_counts: np.ndarray,
) -> dict[str, Any]:
    """Writes the id maps and, last, `dataset.json`."""
    kinds = (*SPLITS, SEQUENCES)
    shards = sorted(shards, key=lambda file: (kinds.index(file["name"].split("/")[0]), file["name"]))
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
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "source": source,
        "split": split.describe(),
        "counts": {
            "users": len(user_keys),
            "items": len(item_keys),
            "interactions": count_rows(shards, *SPLITS),
            **{kind: count_rows(shards, kind) for kind in SPLITS},
        },
        "sequences": {**asdict(windows), "rows": count_rows(shards, SEQUENCES)},
        "notes": notes,
        "files": maps + shards,
    }
    folder.write_json(MANIFEST, manifest)
    return manifest
