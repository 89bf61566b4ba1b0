"""Turn a source of interactions into a dataset.

The steps are in modules of their own: `reading`, `choosing`, `filtering`, `shards`. They run on a `driver`.
The memory of this process grows with the number of users and items, and by a few bytes an interaction.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import cast, get_args

from adar_ray.data.choosing import Choice, Dropped, choose
from adar_ray.data.dataset import Dataset
from adar_ray.data.drivers import driver_for
from adar_ray.data.features import FeatureFile, FeatureTable, find_features, read_features
from adar_ray.data.filtering import filter_core
from adar_ray.data.manifest import (
    BAD_ROWS,
    KIND,
    PreparedSource,
    Protocol,
    Repeat,
    RowCounts,
)
from adar_ray.data.notes import feature_notes, reading_notes, split_notes
from adar_ray.data.options import NULL_WORDS, ReadOptions, TimestampUnit
from adar_ray.data.reading import FileReport, read
from adar_ray.data.sequences import DEFAULT_LENGTH, Windows
from adar_ray.data.shards import FinalIds, ShardWriter, cut_in_time, write_shards
from adar_ray.data.sources import SourceFile, find_source
from adar_ray.data.split import SplitProtocol
from adar_ray.data.titles import Titles, find_titles, read_titles
from adar_ray.data.write import ROWS_PER_SHARD, write_manifest
from adar_ray.errors import AdarError
from adar_ray.limits import (
    LARGEST_RATING,
    LARGEST_SEED,
    MOST_ROWS,
    check_choice,
    check_list,
    check_mapping,
    check_number,
)
from adar_ray.outputs import new_folder
from adar_ray.storage import Folder

Progress = Callable[[str, int], None]
"""Told the stage of the work and the number of rows done so far."""


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
    titles: str | Path | None = None,
    items: str | Path | None = None,
    item_columns: Mapping[str, str] | None = None,
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
            name leaves a column out. `weight` is read only if it is named here: how much an interaction
            counts in training.
        separator, header, encoding, null_words, timestamp_unit, timestamp_format, max_bad_rows: how to read
            the source (see `options.ReadOptions`).
        titles: a file of items and their titles; an empty text for none. The default is what lies beside the
            interactions under a name of `formats.TITLE_FORMATS`.
        items: a file of items and their features, for models that read them.
        item_columns: the columns of `items` to read, each with `categories` or `number`; by default all but
            titles, with what their values show.
        repeat: which of a user's interactions with one item to keep: the first, the last, all, or the last
            with the `sum` of all weights, which without a weight is their number.
        min_rating: drop interactions with a lower rating.
        core: drop users and items with fewer interactions, repeatedly, until all have this many.
        split: a protocol of `SplitProtocol`. The default is `given` if the source has a split, else
            `leave-one-out`.
        test_fraction, valid_fraction, seed: settings of the split.
        sequence_length, sequence_stride: the longest history of a sequence row, and the distance between a
            user's rows (see `sequences.Windows`); the default stride is the length.
        name: of the dataset; the default is the name of the source.
        rows_per_shard: about this many interactions go into a shard; more if that makes over 4,096 shards.
        replace: replace a dataset at `out`.
        on_progress: called with the stage of the work and the rows done so far.

    Raises:
        AdarError: the source cannot be read, or no interaction is left.
    """
    if columns is not None:
        check_mapping("--columns", columns, {"user": "user_id"})
    if item_columns is not None:
        check_mapping("--item-columns", item_columns, {"genre": "categories"})
    check_list("--null-words", null_words)
    check_number("--core", core, 0, MOST_ROWS)
    check_number("--rows-per-shard", rows_per_shard, 1, MOST_ROWS)
    if min_rating is not None:
        check_number("--min-rating", min_rating, -LARGEST_RATING, LARGEST_RATING, whole=False)
    check_choice("--repeat", repeat, get_args(Repeat))
    _check_split(split, test_fraction, valid_fraction, seed)
    windows = Windows(sequence_length, sequence_length if sequence_stride is None else sequence_stride)
    options = ReadOptions(
        separator, header, encoding, tuple(null_words), timestamp_unit, timestamp_format, max_bad_rows
    )
    if not isinstance(source, (str, os.PathLike)):
        raise AdarError(f"{type(source).__name__}: is no source; write it to a file, and give that")
    found = find_source(str(source), format, columns, options, ratings=min_rating is not None)
    files = found.files
    title_file = find_titles(found, None if titles is None else str(titles), options)
    feature_file = _feature_file(items, item_columns, files[0].columns["item"], options)
    protocol = _protocol(files, split, test_fraction, valid_fraction, seed)
    if min_rating is not None and not files[0].has_rating:
        raise AdarError(
            f"{files[0].path}: --min-rating needs ratings, and no column was taken for them; "
            "name it with --columns rating=NAME"
        )
    with new_folder(out, replace=replace, kind=KIND) as folder, driver_for(folder) as driver:
        is_given = protocol.protocol == "given"
        rows, reports = read(driver, files, is_given, functools.partial(on_progress, "reading"))
        count, user_keys, item_keys = rows.count, rows.users.keys, rows.items.keys
        named = None if title_file is None else read_titles(title_file, item_keys)
        features = None if feature_file is None else read_features(feature_file, item_keys)
        bad = sum(len(report.bad) for report in reports)
        beside = [table for table in (named, features) if table is not None]
        _write_bad_rows(folder, [*reports, *beside], max_bad_rows)
        choice = Choice(files[0].has_time, repeat, min_rating)
        on_rows = functools.partial(on_progress, "sorting")
        chosen = choose(driver, rows, choice, on_rows)
        on_rows = functools.partial(on_progress, "filtering")
        user_counts, item_counts = filter_core(driver, chosen, core, on_rows)
        cuts = None
        if protocol.protocol == "temporal":
            cuts = cut_in_time(driver, chosen.parts, user_counts, item_counts, protocol)
        ids = FinalIds.of(user_counts, item_counts, rows_per_shard)
        writer = ShardWriter(folder, protocol, cuts, windows, ids.homes)
        on_rows = functools.partial(on_progress, "writing")
        shards, facts = write_shards(driver, chosen.parts, ids, writer, on_rows)
        kept = int(user_counts.sum())
        if named is not None:
            found, named = found.without(named.path), named.of(ids.items)
        if features is not None:
            found, features = found.without(features.path), features.of(item_keys.take(ids.items))
        empty = [report.path for report in reports if report.is_empty]
        counts = _row_counts(count, bad, chosen.dropped, kept)
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
                *split_notes(protocol, facts, user_keys, user_counts),
                *([] if named is None else named.notes()),
                *([] if features is None else feature_notes(features)),
            ],
            homes=ids.homes,
            shards=shards,
            user_keys=user_keys.take(ids.users),
            item_keys=item_keys.take(ids.items),
            user_counts=user_counts[ids.users],
            item_counts=item_counts[ids.items],
            item_titles=None if named is None else named.title_I,
            item_features=None if features is None else features.features,
        )
    return Dataset.open(out)


def _check_split(split: str | None, test_fraction: float, valid_fraction: float, seed: int) -> None:
    if split is not None:
        check_choice("--split", split, get_args(Protocol))
    check_number("--seed", seed, 0, LARGEST_SEED)
    check_number("--test-fraction", test_fraction, 0, 1, whole=False)
    check_number("--valid-fraction", valid_fraction, 0, 1, whole=False)
    if test_fraction in (0, 1) or valid_fraction == 1:
        raise AdarError(
            f"--test-fraction {test_fraction} and --valid-fraction {valid_fraction}: give fractions below 1, "
            "and more than 0 for test"
        )


def _feature_file(
    items: str | Path | None, columns: Mapping[str, str] | None, item: str, options: ReadOptions
) -> FeatureFile | None:
    if items is not None:
        return find_features(str(items), item, columns, options)
    if columns is not None:
        raise AdarError("--item-columns: says how to read --items; give that file, too")
    return None


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


def _row_counts(count: int, bad: int, dropped: Dropped, kept: int) -> RowCounts:
    """What became of the source's rows.

    Args:
        count, bad: rows that could be read, and those that could not.
        dropped: of the former, by reason.
        kept: how many are in the dataset.
    """
    return RowCounts(
        read=count + bad,
        bad=bad,
        repeated=dropped.repeated,
        held_out_in_training=dropped.held_out_in_training,
        valid_in_test=dropped.valid_in_test,
        low_rating=dropped.low_rating,
        few_interactions=count - sum(astuple(dropped)) - kept,
        kept=kept,
    )


def _name(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2].split("*")[0].partition(".")[0] or "dataset"


def _write_bad_rows(folder: Folder, read: Sequence[FileReport | Titles | FeatureTable], limit: int) -> None:
    """List the skipped rows of all files."""
    bad = [(file.path, row) for file in read for row in file.bad]
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
