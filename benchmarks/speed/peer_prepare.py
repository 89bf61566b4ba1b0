"""What one would write with DuckDB or polars: deduplicated, split by leave-one-out, dense ids, Parquet.

python -m benchmarks.speed.peer_prepare duckdb|polars SOURCE OUT
"""

from __future__ import annotations

import sys
from pathlib import Path


def duckdb_way(source: str, out: str) -> None:
    import duckdb

    base = duckdb.connect()
    base.execute("SET threads = 1")
    base.execute("SET preserve_insertion_order = false")
    base.execute(
        f"""
        CREATE TABLE pair AS
        SELECT user, item, min(timestamp) AS timestamp FROM read_csv('{source}', header = true)
        GROUP BY user, item
        """
    )
    for name in ("user", "item"):
        base.execute(
            f"CREATE TABLE {name}s AS SELECT {name} AS key, row_number() OVER (ORDER BY {name}) - 1 AS id "
            f"FROM (SELECT DISTINCT {name} FROM pair)"
        )
        base.execute(f"COPY (SELECT * FROM {name}s ORDER BY id) TO '{out}/{name}s.parquet'")
    base.execute(
        """
        CREATE TABLE ranked AS
        SELECT users.id::INTEGER AS user, items.id::INTEGER AS item, timestamp,
            row_number() OVER (PARTITION BY users.id ORDER BY timestamp DESC, items.id DESC) AS back
        FROM pair JOIN users ON pair.user = users.key JOIN items ON pair.item = items.key
        """
    )
    splits = {"test": "back = 1", "valid": "back = 2", "train": "back > 2"}
    for split, condition in splits.items():
        base.execute(
            f"COPY (SELECT user, item, timestamp FROM ranked WHERE {condition} ORDER BY user, timestamp) "
            f"TO '{out}/{split}.parquet'"
        )


def polars_way(source: str, out: str) -> None:
    import polars as pl

    pair = (
        pl.scan_csv(source)
        .group_by("user", "item")
        .agg(pl.col("timestamp").min())
        .collect(engine="streaming")
    )
    for name in ("user", "item"):
        keys = pair.select(pl.col(name).unique().sort().alias("key")).with_row_index("id")
        keys.write_parquet(f"{out}/{name}s.parquet")
        pair = pair.join(keys, left_on=name, right_on="key").drop(name).rename({"id": name})
    pair = pair.sort("user", "timestamp", "item").with_columns(
        back=pl.int_range(pl.len(), 0, -1).over("user", mapping_strategy="group_to_rows")
    )
    splits = {"test": pl.col("back") == 1, "valid": pl.col("back") == 2, "train": pl.col("back") > 2}
    for split, condition in splits.items():
        pair.filter(condition).drop("back").write_parquet(f"{out}/{split}.parquet")


def main(way: str, source: str, out: str) -> None:
    Path(out).mkdir(parents=True, exist_ok=True)
    {"duckdb": duckdb_way, "polars": polars_way}[way](source, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
