"""Turn a source of interactions into a dataset, on Ray Data.

Interactions stream through tasks and live in Ray's object store, which spills to disk. The memory of this
process grows with the number of users and items, not with the number of interactions.

Legend: E rows of a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from adar_ray.data.blocks import arrow_blocks, map_blocks, numbered_blocks
from adar_ray.data.dataset import Dataset
from adar_ray.data.manifest import MANIFEST, SPLITS, PreparedSource, Protocol, count_rows
from adar_ray.data.readers import read_tables
from adar_ray.data.sequences import DEFAULT_LENGTH, Windows
from adar_ray.data.sources import SourceFile, find_files
from adar_ray.data.split import LEAVE_ONE_OUT_MINIMUM, TRAIN, SplitProtocol, temporal_cuts
from adar_ray.data.write import (
    ROWS_PER_SHARD,
    shard_count,
    shard_of,
    write_manifest,
    write_shard,
)
from adar_ray.errors import AdarError
from adar_ray.ray_session import ray_session
from adar_ray.storage import FileEntry, Folder, new_folder

Progress = Callable[[str, int], None]
"""Told the stage of the work and the number of rows done so far."""


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    columns: dict[str, str] | None = None,
    min_rating: float | None = None,
    core: int = 0,
    split: str | None = None,
    test_fraction: float = 0.2,
    valid_fraction: float = 0.1,
    seed: int = 0,
    sequence_length: int = DEFAULT_LENGTH,
    sequence_stride: int | None = None,
    name: str | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    replace: bool = False,
    on_progress: Progress = lambda stage, rows: None,
) -> Dataset:
    """Prepare a dataset: read, deduplicate (a pair's first interaction wins), filter, split, write shards.

    Args:
        source: a file, folder, glob or address.
        out: address of the dataset; must be empty or absent unless `replace`.
        format: a name in `formats.FORMATS`; recognized if None.
        columns: the source's own names for user, item, timestamp and rating, where they are unusual.
        min_rating: drop interactions with a lower rating.
        core: drop users and items with fewer interactions, repeatedly, until all have this many.
        split: a protocol of `SplitProtocol`. The default is `given` if the source has a split, else
            `leave-one-out`.
        test_fraction, valid_fraction, seed: settings of the split.
        sequence_length, sequence_stride: the longest history of a sequence row, and the distance between a
            user's rows (see `sequences.Windows`); the default stride is the length.
        name: of the dataset; the default is the name of the source.
        rows_per_shard: about this many interactions go into a shard.
        replace: replace a dataset at `out`.
        on_progress: called with the stage of the work and the rows done so far.

    Raises:
        AdarError: the source cannot be read, or no interaction is left.
    """
    windows = Windows(sequence_length, sequence_length if sequence_stride is None else sequence_stride)
    files = find_files(str(source), format, columns)
    protocol = _protocol(files, split, test_fraction, valid_fraction, seed)
    if min_rating is not None and not all(file.has_rating for file in files):
        raise AdarError(f"{files[0].path}: has no ratings, so --min-rating cannot be used")
    with new_folder(out, replace=replace, mark=MANIFEST) as folder, ray_session():
        rows = _read(files, on_progress)
        users, items = _keys(rows, "user"), _keys(rows, "item")
        shards = shard_count(rows.count(), rows_per_shard)
        rows = _to_shards(rows, users, items, shards, all(file.has_time for file in files), min_rating)
        rows = _materialize(rows, functools.partial(on_progress, "sorting"))
        user_counts, item_counts = _filter(rows, len(users), len(items), core, on_progress)
        cuts = _cuts(rows, user_counts, item_counts, protocol) if protocol.protocol == "temporal" else None
        entries = _write(rows, folder, protocol, windows, user_counts, item_counts, cuts, on_progress)
        write_manifest(
            folder,
            name=name or _name(str(source)),
            source=PreparedSource(
                address=str(source),
                format=files[0].format.name,
                files=len(files),
                interactions_in_time_order="timestamp" if files[0].has_time else "position in the source",
                min_rating=min_rating,
                core=core,
            ),
            split=protocol,
            windows=windows,
            notes=_notes(protocol, users, user_counts),
            shards=entries,
            user_keys=users.filter(pa.array(user_counts > 0)),
            item_keys=items.filter(pa.array(item_counts > 0)),
            user_counts=user_counts[user_counts > 0],
            item_counts=item_counts[item_counts > 0],
        )
    return Dataset.open(out)


def _protocol(
    files: list[SourceFile], split: str | None, test_fraction: float, valid_fraction: float, seed: int
) -> SplitProtocol:
    has_given = any(file.split == "test" for file in files)
    protocol = cast(Protocol, split or ("given" if has_given else "leave-one-out"))
    if protocol == "given" and not has_given:
        raise AdarError(f"{files[0].path}: the source has no split of its own; choose another --split")
    if protocol == "temporal" and not all(file.has_time for file in files):
        raise AdarError(f"{files[0].path}: has no timestamps to cut at; choose another --split")
    if protocol == "given" and any(file.split == "valid" for file in files):
        valid_fraction = 0.0  # the source has its own
    return SplitProtocol(
        protocol=protocol, test_fraction=test_fraction, valid_fraction=valid_fraction, seed=seed
    )


def _name(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].split("*")[0].partition(".")[0] or "dataset"


# Reading.


def _read(files: list[SourceFile], on_progress: Progress) -> ray.data.Dataset:
    """Read all files as they are: keys, time, rating, `order` in the source, given split."""
    # Training first: if a pair is in both training and test, the one in training is kept.
    files = sorted(files, key=lambda file: (SPLITS.index(file.split or "train"), file.path))
    rows = map_blocks(numbered_blocks("file", len(files)), _read_file, files)
    rows = _materialize(rows, functools.partial(on_progress, "reading"))
    if not rows.count():
        raise AdarError(f"{files[0].path}: holds no interactions")
    return rows


def _read_file(files: list[SourceFile], block: pa.Table) -> Iterator[pa.Table]:
    (number,) = block["file"].to_pylist()
    file = files[number]
    given = SPLITS.index(file.split or "train")
    for table in read_tables(file):
        order = pc.add(table["row"], number << 40)
        table = table.drop_columns("row").append_column("order", order)
        yield table.append_column("given", pa.repeat(pa.scalar(given, pa.int8()), table.num_rows))


def _keys(rows: ray.data.Dataset, column: str) -> pa.Array:
    """All distinct keys. A key's position is its preliminary id.

    Shorter keys come first, then alphabetical order: numbers come out in numerical order, and the order
    depends on nothing but the keys.
    """

    def distinct(block: pa.Table) -> pa.Table:
        return pa.table({"key": block[column].unique()})

    keys = pa.chunked_array([pa.array([], pa.string())])
    for part in arrow_blocks(map_blocks(rows, distinct)):
        keys = pa.chunked_array([*keys.chunks, *part["key"].chunks]).unique()
        keys = pa.chunked_array([keys])
    table = pa.table({"length": pc.binary_length(keys), "key": keys})
    return table.sort_by([("length", "ascending"), ("key", "ascending")])["key"].combine_chunks()


# Sorting.


def _to_shards(
    rows: ray.data.Dataset,
    users: pa.Array,
    items: pa.Array,
    shards: int,
    has_time: bool,
    min_rating: float | None,
) -> ray.data.Dataset:
    """Give each shard its rows: preliminary ids, sorted by user and time, each pair once."""
    keys = ray.put((users, items))
    numbered = map_blocks(rows, _to_ids, keys, shards)
    together = numbered.repartition(shards, keys=["shard"]) if shards > 1 else numbered.repartition(1)
    return map_blocks(together, sort_and_deduplicate, has_time, min_rating)


def _to_ids(keys: ray.ObjectRef, shards: int, block: pa.Table) -> pa.Table:
    users, items = ray.get(keys)
    user = pc.index_in(block["user"], value_set=users).combine_chunks()
    return pa.table(
        {
            "shard": shard_of(user.to_numpy(), shards),
            "user": user,
            "item": pc.index_in(block["item"], value_set=items).combine_chunks(),
            **{name: block[name] for name in ("timestamp", "rating", "order", "given")},
        }
    )


def sort_and_deduplicate(has_time: bool, min_rating: float | None, block: pa.Table) -> pa.Table:
    """Sort by shard, user and time, and keep the first interaction of each pair.

    First means first in time, or in the source if it has no times; ties are broken by the order in the
    source. The filter by rating comes after that: a pair counts by its first rating.
    """
    column = {
        name: block[name].to_numpy() for name in ("shard", "user", "item", "timestamp", "order", "given")
    }
    when = (column["order"], column["timestamp"]) if has_time else (column["order"],)
    by_pair = np.lexsort((*when, column["given"], column["item"], column["user"]))
    user, item = column["user"][by_pair], column["item"][by_pair]
    first = np.ones(len(by_pair), dtype=bool)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    kept = by_pair[first]
    if min_rating is not None:
        kept = kept[block["rating"].to_numpy()[kept] >= min_rating]
    in_time = (values[kept] for values in when)
    kept = kept[np.lexsort((*in_time, column["user"][kept], column["shard"][kept]))]
    return pa.table({name: column[name][kept] for name in ("shard", "user", "item", "timestamp", "given")})


# Filtering.


def _filter(
    rows: ray.data.Dataset, users: int, items: int, core: int, on_progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Count the interactions of each user and item after filtering; 0 if dropped."""
    user_counts, item_counts = _count(rows, np.ones(users, np.int64), np.ones(items, np.int64))
    everything = int(user_counts.sum())
    while core > 1:
        kept_users, kept_items = user_counts * (user_counts >= core), item_counts * (item_counts >= core)
        if (kept_users == user_counts).all() and (kept_items == item_counts).all():
            break
        user_counts, item_counts = _count(rows, kept_users, kept_items)
        on_progress("filtering", int(user_counts.sum()))
    if not user_counts.any():
        hint = f"--core {core} leaves none of {everything:,} interactions" if everything else "--min-rating"
        raise AdarError(f"filtering leaves nothing ({hint}); filter less")
    return user_counts, item_counts


def _count(
    rows: ray.data.Dataset, keeps_user: np.ndarray, keeps_item: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Count the interactions of each user and item among the users and items that are kept (not 0)."""
    kept = ray.put((keeps_user > 0, keeps_item > 0))
    counts = np.zeros(len(keeps_user), np.int64), np.zeros(len(keeps_item), np.int64)
    for part in map_blocks(rows, _count_block, kept).iter_batches(batch_size=None, batch_format="numpy"):
        for kind in (0, 1):
            here = part["kind"] == kind
            np.add.at(counts[kind], part["id"][here], part["count"][here])
    return counts


def _count_block(kept: ray.ObjectRef, block: pa.Table) -> pa.Table:
    users, items = ray.get(kept)
    user, item = block["user"].to_numpy(), block["item"].to_numpy()
    both = users[user] & items[item]
    parts = [np.unique(ids[both], return_counts=True) for ids in (user, item)]
    return pa.table(
        {
            "kind": np.repeat(np.arange(2, dtype=np.int8), [len(ids) for ids, _ in parts]),
            "id": np.concatenate([ids for ids, _ in parts]),
            "count": np.concatenate([count for _, count in parts]),
        }
    )


# Splitting and writing.


def _notes(protocol: SplitProtocol, users: pa.Array, user_counts: np.ndarray) -> list[str]:
    """What people should know about the split, and what to do about it."""
    if protocol.protocol != "leave-one-out":
        return []
    few = np.flatnonzero((user_counts > 0) & (user_counts < LEAVE_ONE_OUT_MINIMUM))
    if not len(few):
        return []
    return [
        f"{len(few):,} users have fewer than {LEAVE_ONE_OUT_MINIMUM} interactions (the first is "
        f"{users[few[0]].as_py()!r}): theirs all stay in training; --core {LEAVE_ONE_OUT_MINIMUM} drops them"
    ]


def _cuts(
    rows: ray.data.Dataset, user_counts: np.ndarray, item_counts: np.ndarray, protocol: SplitProtocol
) -> tuple[int, int]:
    """The first moments of validation and of test for a temporal split of the kept interactions."""
    kept = ray.put((user_counts > 0, item_counts > 0))

    def times(block: pa.Table) -> np.ndarray:
        users, items = ray.get(kept)
        return block["timestamp"].to_numpy()[
            users[block["user"].to_numpy()] & items[block["item"].to_numpy()]
        ]

    def rows_from(edges: list[int], block: pa.Table) -> pa.Table:
        time = np.sort(times(block))
        return pa.table({"edge": np.arange(len(edges)), "rows": len(time) - np.searchsorted(time, edges)})

    def histogram(edges: list[int]) -> np.ndarray:
        total = np.zeros(len(edges), np.int64)
        for part in map_blocks(rows, rows_from, edges).iter_batches(batch_size=None, batch_format="numpy"):
            np.add.at(total, part["edge"], part["rows"])
        return total

    low, high = (cast(int, limit("timestamp")) for limit in (rows.min, rows.max))
    return temporal_cuts(histogram, int(user_counts.sum()), low, high, protocol)


def _write(
    rows: ray.data.Dataset,
    folder: Folder,
    protocol: SplitProtocol,
    windows: Windows,
    user_counts: np.ndarray,
    item_counts: np.ndarray,
    cuts: tuple[int, int] | None,
    on_progress: Progress,
) -> list[FileEntry]:
    """Write all shards and return their entries for the manifest."""
    # Final ids have no gaps: the new id of a kept key is the number of kept keys before it.
    ids = ray.put(
        tuple(np.where(counts > 0, np.cumsum(counts > 0) - 1, -1) for counts in (user_counts, item_counts))
    )
    entries: list[FileEntry] = []
    for part in arrow_blocks(map_blocks(rows, _write_block, folder, protocol, windows, ids, cuts)):
        entries += [FileEntry.model_validate_json(entry) for entry in part["entry"].to_pylist()]
        on_progress("writing", count_rows(entries, *SPLITS))
    if not count_rows(entries, SPLITS[TRAIN]):
        raise AdarError("the split leaves nothing for training; choose another --split or smaller fractions")
    return entries


def _write_block(
    folder: Folder,
    protocol: SplitProtocol,
    windows: Windows,
    ids: ray.ObjectRef,
    cuts: tuple[int, int] | None,
    block: pa.Table,
) -> pa.Table:
    user_ids, item_ids = ray.get(ids)
    column = {name: block[name].to_numpy() for name in block.column_names}
    column["user"], column["item"] = user_ids[column["user"]], item_ids[column["item"]]
    kept = (column["user"] >= 0) & (column["item"] >= 0)
    column = {name: values[kept] for name, values in column.items()}
    entries: list[FileEntry] = []
    for shard in np.unique(column["shard"]):
        here = column["shard"] == shard
        user, item, timestamp, given = (column[name][here] for name in ("user", "item", "timestamp", "given"))
        entries += write_shard(folder, int(shard), protocol, windows, user, item, timestamp, given, cuts)
    return pa.table({"entry": pa.array([entry.model_dump_json() for entry in entries], pa.string())})


def _materialize(rows: ray.data.Dataset, on_rows: Callable[[int], None]) -> ray.data.Dataset:
    """Run the plan and keep its blocks in the object store, reporting the rows done so far."""
    blocks, done = [], 0
    for bundle in rows.iter_internal_ref_bundles():
        blocks += bundle.block_refs
        done += bundle.num_rows()
        on_rows(done)
    return ray.data.from_arrow_refs(blocks)
