"""Turn a source of interactions into a dataset, on Ray Data.

Interactions stream through tasks and live in Ray's object store, which spills to disk. The memory of this
process grows with the number of users and items, not with the number of interactions.

Legend: E rows of a block.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from adar_ray.data.bad_rows import BadRow
from adar_ray.data.blocks import arrow_blocks, map_blocks, numbered_blocks
from adar_ray.data.dataset import Dataset
from adar_ray.data.keys import unify_numbers
from adar_ray.data.lanes import Homes, deal, lane_count
from adar_ray.data.ledger import Ledger
from adar_ray.data.manifest import (
    BAD_ROWS,
    MANIFEST,
    SPLITS,
    PreparedSource,
    Protocol,
    Repeat,
    RowCounts,
    count_rows,
)
from adar_ray.data.notes import SplitFacts, reading_notes, split_notes
from adar_ray.data.options import NULL_WORDS, ReadOptions, TimestampUnit
from adar_ray.data.readers import FileReader
from adar_ray.data.sequences import DEFAULT_LENGTH, Windows
from adar_ray.data.sources import SourceFile, find_source
from adar_ray.data.split import TEST, TRAIN, SplitProtocol, assign, hash_pairs, temporal_cuts
from adar_ray.data.write import ROWS_PER_SHARD, WrittenShard, shard_count, write_manifest, write_shard
from adar_ray.errors import AdarError
from adar_ray.outputs import new_folder
from adar_ray.ray_session import ray_session
from adar_ray.storage import Folder

Progress = Callable[[str, int], None]
"""Told the stage of the work and the number of rows done so far."""

_WRITTEN = pa.schema(
    {
        "shard": pa.string(),
        "test_users": pa.int64(),
        "cold_users": pa.int64(),
        "train_items": pa.list_(pa.int64()),
        "test_items": pa.list_(pa.int64()),
    }
)
"""What writing a shard returns; the items are ids, each once."""


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    columns: dict[str, str] | None = None,
    separator: str | None = None,
    header: str | None = None,
    encoding: str | None = None,
    null_words: Sequence[str] = NULL_WORDS,
    timestamp_unit: TimestampUnit | None = None,
    timestamp_format: str | None = None,
    max_bad_rows: int = 0,
    repeat: Repeat = "first",
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
    """Prepare a dataset: read, deduplicate, filter, split, write shards.

    Args:
        source: a file, folder, glob or address.
        out: address of the dataset; must be empty or absent unless `replace`.
        format: a name in `formats.FORMATS`; recognized if None.
        columns: the source's own names for user, item, timestamp and rating, where they are unusual; an empty
            name leaves a column out.
        separator, header, encoding, null_words, timestamp_unit, timestamp_format, max_bad_rows: how to read
            the source (see `options.ReadOptions`).
        repeat: which of a user's interactions with one item to keep: the first, the last, or all.
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
    options = ReadOptions(
        separator, header, encoding, tuple(null_words), timestamp_unit, timestamp_format, max_bad_rows
    )
    found = find_source(str(source), format, columns, options, ratings=min_rating is not None)
    files = found.files
    protocol = _protocol(files, split, test_fraction, valid_fraction, seed)
    if min_rating is not None and not files[0].has_rating:
        raise AdarError(f"{files[0].path}: has no ratings, so --min-rating cannot be used")
    with new_folder(out, replace=replace, mark=MANIFEST) as folder, ray_session():
        rows, reports = _read(files, folder, on_progress)
        bad = _write_bad_rows(folder, reports, max_bad_rows)
        users, items = _keys(rows, "user"), _keys(rows, "item")
        read = rows.count()
        parts = shard_count(read, rows_per_shard)
        choice = _Choice(files[0].has_time, repeat, min_rating)
        rows, dropped = _to_parts(rows, folder, users, items, parts, choice, on_progress)
        user_counts, item_counts = _filter(rows, len(users), len(items), core, on_progress)
        cuts = _cuts(rows, user_counts, item_counts, protocol) if protocol.protocol == "temporal" else None
        kept = int(user_counts.sum())
        lanes = lane_count(kept)
        there = np.flatnonzero(user_counts)
        lane_U = deal(user_counts[there], lanes)
        homes = Homes.of(lane_U, lanes, shard_count(kept, rows_per_shard))
        user_order = there[np.argsort(lane_U, kind="stable")]
        item_order = np.flatnonzero(item_counts)
        ids = _ids(user_order, len(users)), _ids(item_order, len(items))
        written, facts = _write(
            rows, folder, protocol, windows, homes, ids, len(item_order), cuts, on_progress
        )
        empty = [report.path for report in reports if report.is_empty]
        counts = RowCounts(
            read=read + bad,
            bad=bad,
            repeated=dropped.repeated,
            held_out_in_training=dropped.held_out_in_training,
            low_rating=dropped.low_rating,
            few_interactions=rows.count() - kept,
            kept=kept,
        )
        write_manifest(
            folder,
            name=name or _name(str(source)),
            source=PreparedSource(
                address=str(source),
                format=files[0].format.name,
                files=len(files),
                columns=files[0].columns,
                rows=counts,
                repeat=repeat,
                interactions_in_time_order="timestamp" if files[0].has_time else "position in the source",
                min_rating=min_rating,
                core=core,
            ),
            split=protocol,
            windows=windows,
            notes=[
                *reading_notes(found, empty, counts, protocol, repeat),
                *split_notes(protocol, facts, users.keys, user_counts),
            ],
            homes=homes,
            shards=written,
            user_keys=users.keys.take(user_order),
            item_keys=items.keys.take(item_order),
            user_counts=user_counts[user_order],
            item_counts=item_counts[item_order],
        )
    return Dataset.open(out)


def _protocol(
    files: list[SourceFile], split: str | None, test_fraction: float, valid_fraction: float, seed: int
) -> SplitProtocol:
    given = {file.split for file in files if file.split}
    protocol = cast(Protocol, split or ("given" if given else "leave-one-out"))
    if protocol == "given":
        _check_given(files, given)
        if "valid" in given:
            valid_fraction = 0.0  # the source has its own
    if protocol == "temporal" and not files[0].has_time:
        raise AdarError(f"{files[0].path}: has no timestamps to cut at; choose another --split")
    return SplitProtocol(
        protocol=protocol, test_fraction=test_fraction, valid_fraction=valid_fraction, seed=seed
    )


def _check_given(files: list[SourceFile], given: set[str]) -> None:
    """Refuse a split of the source's own that is none, or not of everything."""
    if not given:
        raise AdarError(f"{files[0].path}: the source has no split of its own; choose another --split")
    anew = "or split all of it anew with another --split"
    for kind in ("train", "test"):
        if kind not in given:
            there = " and ".join(sorted(given))
            raise AdarError(
                f"{files[0].path}: there are files for {there}, but none for {kind}; add one, {anew}"
            )
    other = next((file.path for file in files if not file.split), None)
    if other is not None:
        raise AdarError(
            f"{other}: its name tells no split, those of other files do; rename or remove it, {anew}"
        )


def _name(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].split("*")[0].partition(".")[0] or "dataset"


# Reading.


@dataclass(frozen=True)
class _FileReport:
    """What reading one file has shown, besides its rows."""

    path: str
    bad: list[BadRow]
    is_empty: bool
    time_unit: str | None


def _read(
    files: list[SourceFile], folder: Folder, on_progress: Progress
) -> tuple[ray.data.Dataset, list[_FileReport]]:
    """Read all files as they are: keys, time, rating, `order` in the source, given split."""
    # Training first: if a pair is in both training and test, the one in training is kept.
    files = sorted(files, key=lambda file: (SPLITS.index(file.split or "train"), file.path))
    ledger = Ledger(folder.folder("reading"), _FileReport)
    rows = map_blocks(numbered_blocks("file", len(files)), _read_file, files, ledger)
    rows = _materialize(rows, functools.partial(on_progress, "reading"))
    if not rows.count():
        raise AdarError(f"{files[0].path}: holds no interactions")
    reports = ledger.take()
    in_unit = {report.time_unit: report.path for report in reports if report.time_unit}
    if len(in_unit) > 1:
        (unit, path), (other_unit, other_path) = list(in_unit.items())[:2]
        raise AdarError(
            f"{path}: its times are {unit}, those of {other_path} {other_unit}; convert one of them, or pass "
            "--timestamp-unit if all count the same"
        )
    return rows, reports


def _read_file(files: list[SourceFile], ledger: Ledger[_FileReport], block: pa.Table) -> Iterator[pa.Table]:
    (number,) = block["file"].to_pylist()
    reader = FileReader(files[number])
    given = SPLITS.index(reader.file.split or "train")
    for table in reader.tables():
        order = pc.add(table["row"], number << 40)
        table = table.drop_columns("row").append_column("order", order)
        yield table.append_column("given", pa.repeat(pa.scalar(given, pa.int8()), table.num_rows))
    path = reader.file.path
    ledger.enter(number, _FileReport(path, reader.bad.rows, reader.is_empty, reader.time_unit))


def _write_bad_rows(folder: Folder, reports: list[_FileReport], limit: int) -> int:
    """List the skipped rows of all files, and count them."""
    bad = [(report.path, row) for report in reports for row in report.bad]
    if len(bad) > limit:
        path, row = bad[0]
        raise AdarError(
            f"{path}: {row.place}: {row.problem}; all files have {len(bad):,} bad rows, more than "
            f"--max-bad-rows {limit}"
        )
    if bad:
        listed = [
            {"file": path, row.unit: row.number, "problem": row.problem, "text": row.text}
            for path, row in bad
        ]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in listed]
        folder.write_bytes(BAD_ROWS, "".join(lines).encode())
    return len(bad)


@dataclass(frozen=True)
class _Keys:
    """The ids of users or items: `written` as the source has them, and `keys` without different spellings.

    A key's position in `keys` is its preliminary id; `position` maps those of `written` to it.
    """

    written: pa.Array
    keys: pa.Array
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def ids(self, column: pa.ChunkedArray) -> np.ndarray:
        return self.position[pc.index_in(column, value_set=self.written).to_numpy()]


def _keys(rows: ray.data.Dataset, column: str) -> _Keys:
    """All distinct keys."""

    def distinct(block: pa.Table) -> pa.Table:
        return pa.table({"key": block[column].unique()})

    keys = pa.chunked_array([pa.array([], pa.string())])
    for part in arrow_blocks(map_blocks(rows, distinct)):
        keys = pa.chunked_array([*keys.chunks, *part["key"].chunks]).unique()
        keys = pa.chunked_array([keys])
    written = keys.combine_chunks()
    return _Keys(written, *unify_numbers(column, written))


# Sorting.


@dataclass(frozen=True)
class _Choice:
    """Which interactions are kept, and what orders them."""

    has_time: bool
    repeat: Repeat
    min_rating: float | None


@dataclass(frozen=True)
class Dropped:
    """The numbers of rows that were dropped; see `manifest.RowCounts`."""

    repeated: int = 0
    held_out_in_training: int = 0
    low_rating: int = 0


def _to_parts(
    rows: ray.data.Dataset,
    folder: Folder,
    users: _Keys,
    items: _Keys,
    parts: int,
    choice: _Choice,
    on_progress: Progress,
) -> tuple[ray.data.Dataset, Dropped]:
    """Cut the rows by user into parts: preliminary ids, sorted by user and time, without what is dropped."""
    keys = ray.put((users, items))
    together = _repartition(map_blocks(rows, _to_ids, keys, parts), parts, "part")
    ledger = Ledger(folder.folder("sorting"), Dropped)
    rows = map_blocks(together, _sort_block, choice, ledger)
    rows = _materialize(rows, functools.partial(on_progress, "sorting"))
    total = Dropped(*(sum(column) for column in zip(*map(astuple, ledger.take()), strict=True)))
    return rows, total


def _repartition(rows: ray.data.Dataset, parts: int, key: str) -> ray.data.Dataset:
    return rows.repartition(parts, keys=[key]) if parts > 1 else rows.repartition(1)


def _to_ids(keys: ray.ObjectRef, parts: int, block: pa.Table) -> pa.Table:
    users, items = ray.get(keys)
    user = users.ids(block["user"])
    return pa.table(
        {
            "part": (hash_pairs(user, 0, 0) % np.uint64(parts)).astype(np.int32),
            "user": user,
            "item": items.ids(block["item"]),
            **{name: block[name] for name in ("timestamp", "rating", "order", "given")},
        }
    )


def _sort_block(choice: _Choice, ledger: Ledger[Dropped], block: pa.Table) -> pa.Table:
    rows, dropped = _sort_and_choose(choice, block)
    if block.num_rows:
        ledger.enter(pc.min(block["part"]).as_py(), dropped)
    return rows


def _sort_and_choose(choice: _Choice, block: pa.Table) -> tuple[pa.Table, Dropped]:
    """Sort by user and time, and keep one interaction of each pair unless all are to be kept.

    The first is the first in time, or in the source if it has no times; ties are broken by the order in the
    source. Where a pair is in the source's training and its test, training keeps it. The filter by rating
    comes after that: a pair counts by the rating of its interaction that is kept.
    """
    column = {name: block[name].to_numpy() for name in ("user", "item", "timestamp", "order", "given")}
    when = (column["order"], column["timestamp"]) if choice.has_time else (column["order"],)
    kept, dropped = np.arange(block.num_rows), Dropped()
    if choice.repeat != "keep":
        by_pair = np.lexsort((*when, column["given"], column["item"], column["user"]))
        user, item, given = (column[name][by_pair] for name in ("user", "item", "given"))
        is_same_pair = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
        is_same_split = is_same_pair & (given[1:] == given[:-1])
        begins_pair = np.concatenate([[True], ~is_same_pair])[: len(by_pair)]
        begins_split = np.concatenate([[True], ~is_same_split])[: len(by_pair)]
        # The rows of a pair in its first split; the others are in training already.
        split_starts = np.maximum.accumulate(np.where(begins_split, np.arange(len(by_pair)), 0))
        in_first_split = begins_pair[split_starts]
        ends_split = np.append(~is_same_split, True)[: len(by_pair)]
        chosen = in_first_split & (begins_split if choice.repeat == "first" else ends_split)
        kept = by_pair[chosen]
        held_out = int((begins_split & ~in_first_split).sum())
        dropped = Dropped(len(by_pair) - len(kept) - held_out, held_out)
    if choice.min_rating is not None:
        is_enough = block["rating"].to_numpy()[kept] >= choice.min_rating
        dropped = dataclasses.replace(dropped, low_rating=int((~is_enough).sum()))
        kept = kept[is_enough]
    in_time = (values[kept] for values in when)
    kept = kept[np.lexsort((*in_time, column["user"][kept]))]
    names = ("user", "item", "timestamp", "given")
    return pa.table({name: column[name][kept] for name in names}).append_column(
        "position", pa.array(np.arange(len(kept)))
    ), dropped


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


def _ids(order: np.ndarray, count: int) -> np.ndarray:
    """The final id of each preliminary one, given these in the final order; -1 if dropped."""
    ids = np.full(count, -1, np.int32)
    ids[order] = np.arange(len(order))
    return ids


def _write(
    rows: ray.data.Dataset,
    folder: Folder,
    protocol: SplitProtocol,
    windows: Windows,
    homes: Homes,
    ids: tuple[np.ndarray, np.ndarray],
    items: int,
    cuts: tuple[int, int] | None,
    on_progress: Progress,
) -> tuple[list[WrittenShard], SplitFacts]:
    """Write all shards. Returns what was written, and what the split has come to."""
    rows = map_blocks(rows, _to_shards, homes, ray.put(ids))
    rows = _repartition(rows, homes.shards, "shard")
    shards: list[WrittenShard] = []
    users, cold_users = 0, 0
    in_training, in_test = np.zeros((2, items), dtype=bool)
    for part in arrow_blocks(map_blocks(rows, _write_block, folder, protocol, windows, homes, cuts)):
        for shard in part.to_pylist():
            shards.append(WrittenShard.from_json(shard["shard"]))
            users, cold_users = users + shard["test_users"], cold_users + shard["cold_users"]
            in_training[shard["train_items"]] = True
            in_test[shard["test_items"]] = True
        on_progress("writing", sum(count_rows(shard.files, *SPLITS) for shard in shards))
    files = [file for shard in shards for file in shard.files]
    train, valid, test = (count_rows(files, split) for split in SPLITS)
    if not train:
        raise AdarError("the split leaves nothing for training; choose another --split or smaller fractions")
    cold_items = int((in_test & ~in_training).sum())
    return shards, SplitFacts(train, valid, test, users, cold_users, int(in_test.sum()), cold_items)


def _to_shards(homes: Homes, ids: ray.ObjectRef, block: pa.Table) -> pa.Table:
    """Rows that are kept, with final ids and the shard that they go to."""
    user_ids, item_ids = ray.get(ids)
    user, item = user_ids[block["user"].to_numpy()], item_ids[block["item"].to_numpy()]
    kept = (user >= 0) & (item >= 0)
    rest = block.select(["timestamp", "given", "position"]).filter(pa.array(kept))
    found = {"shard": homes.shard_of(user[kept]), "user": user[kept], "item": item[kept]}
    return pa.table(found | {name: rest[name] for name in rest.column_names})


def _write_block(
    folder: Folder,
    protocol: SplitProtocol,
    windows: Windows,
    homes: Homes,
    cuts: tuple[int, int] | None,
    block: pa.Table,
) -> pa.Table:
    column = {name: block[name].to_numpy() for name in block.column_names}
    order = np.lexsort((column["position"], column["user"], column["shard"]))
    column = {name: values[order] for name, values in column.items()}
    shards = []
    for shard in np.unique(column["shard"]):
        here = column["shard"] == shard
        user, item, timestamp, given = (column[name][here] for name in ("user", "item", "timestamp", "given"))
        splits = assign(protocol, user, item, timestamp, given, cuts)
        written = write_shard(folder, int(shard), homes, splits, windows, user, item, timestamp)
        is_train, is_test = splits == TRAIN, splits == TEST
        test_users = np.unique(user[is_test])
        shards.append(
            {
                "shard": written.to_json(),
                "test_users": len(test_users),
                "cold_users": len(np.setdiff1d(test_users, user[is_train])),
                "train_items": np.unique(item[is_train]),
                "test_items": np.unique(item[is_test]),
            }
        )
    return pa.Table.from_pylist(shards, _WRITTEN)


def _materialize(rows: ray.data.Dataset, on_rows: Callable[[int], None]) -> ray.data.Dataset:
    """Run the plan and keep its blocks in the object store, reporting the rows done so far."""
    blocks, done = [], 0
    for bundle in rows.iter_internal_ref_bundles():
        blocks += bundle.block_refs
        done += bundle.num_rows()
        on_rows(done)
    return ray.data.from_arrow_refs(blocks)
