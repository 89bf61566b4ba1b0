"""Writing a dataset: shards in parallel, then the id maps and the manifest that completes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from adar_ray.data.dataset import MANIFEST, SCHEMA_VERSION, SHARD_SCHEMA, SPLITS
from adar_ray.data.split import SplitProtocol, assign, hash_pairs
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
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    given: np.ndarray,
    cuts: tuple[int, int] | None,
) -> list[dict[str, Any]]:
    """Splits one shard's rows, sorted by user and time, and writes a file a split; returns their entries."""
    table = pa.table({"user": user, "item": item, "timestamp": timestamp}).cast(SHARD_SCHEMA)
    splits = assign(split, user, item, timestamp, given, cuts)
    entries = []
    for code, name in enumerate(SPLITS):
        rows = table.filter(pa.array(splits == code))
        if rows.num_rows:
            entries.append(folder.write_table(f"{name}/{shard:05d}.parquet", rows))
    return entries


def write_manifest(
    folder: Folder,
    *,
    name: str,
    source: dict[str, Any],
    split: SplitProtocol,
    notes: list[str],
    shards: list[dict[str, Any]],
    user_keys: pa.Array,
    item_keys: pa.Array,
    user_counts: np.ndarray,
    item_counts: np.ndarray,
) -> dict[str, Any]:
    """Writes the id maps and, last, `dataset.json`."""
    shards = sorted(shards, key=lambda file: (SPLITS.index(file["name"].split("/")[0]), file["name"]))
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
    rows = {
        split_name: sum(file["rows"] for file in shards if file["name"].startswith(f"{split_name}/"))
        for split_name in SPLITS
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "source": source,
        "split": split.describe(),
        "counts": {
            "users": len(user_keys),
            "items": len(item_keys),
            "interactions": sum(rows.values()),
            **rows,
        },
        "notes": notes,
        "files": maps + shards,
    }
    folder.write_json(MANIFEST, manifest)
    return manifest
