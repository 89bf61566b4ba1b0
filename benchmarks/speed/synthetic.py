"""Synthetic interactions as a source, of any size, written once and kept in the work folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from adar_ray import prepare
from adar_ray.data.dataset import Dataset

_BLOCK = 2_000_000


def source(work: Path, users: int, items: int, rows: int, kind: str) -> Path:
    """A file of rows `user,item,timestamp`, as `csv` or `parquet`.

    Popular items are frequent, and pairs may repeat. Every user has a row if there are as many rows as users.
    """
    path = work / "sources" / f"{users}-{items}-{rows}.{kind}"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("timestamp", pa.int64())])
    rng = np.random.default_rng(0)
    writer = (pa.csv.CSVWriter if kind == "csv" else pq.ParquetWriter)(unfinished, schema)
    with writer:
        for start in range(0, rows, _BLOCK):
            size = min(_BLOCK, rows - start)
            order = np.arange(start, start + size)
            # Each user in turn, so that all occur, but scattered over the file.
            user = np.where(order < users, order * 7919 % users, rng.integers(users, size=size))
            item = (items * rng.random(size) ** 3).astype(np.int64)
            time = 1_600_000_000 + rng.integers(100_000_000, size=size)
            writer.write_table(pa.table([user, item, time], schema=schema))
    unfinished.rename(path)
    return path


def dataset(work: Path, users: int, items: int, rows: int) -> Dataset:
    """The same as a dataset, split by leave-one-out."""
    out = work / "data" / f"synthetic-{users}-{items}-{rows}"
    if not out.exists():
        prepare(source(work, users, items, rows, "parquet"), out, split="leave-one-out")
    return Dataset.open(out)
