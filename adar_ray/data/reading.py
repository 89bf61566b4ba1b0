"""The first step of `prepare`: read all files as they are, with ids as numbers.

Legend: E rows of a block, K different ids in it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from adar_ray.data.ahead import read_ahead
from adar_ray.data.bad_rows import BadRow
from adar_ray.data.driver import Block, Driver, OnRows
from adar_ray.data.keys import Keys, KeyTable
from adar_ray.data.manifest import SPLITS
from adar_ray.data.readers import FileReader
from adar_ray.data.sources import SourceFile
from adar_ray.errors import AdarError

_ROWS_PER_BLOCK = 1 << 19


@dataclass(frozen=True)
class FileReport:
    """What reading one file has shown, besides its rows."""

    path: str
    bad: list[BadRow]
    is_empty: bool
    time_unit: str | None


@dataclass(frozen=True)
class Rows:
    """What the source holds.

    Attributes:
        blocks: the interactions, in the order of the source: `user` and `item` as dictionaries, `timestamp`,
            `rating`, `weight` and the split that is `given`, as far as the source has them.
        count: how many there are.
        users, items: the ids.
    """

    blocks: list[Block]
    count: int
    users: Keys
    items: Keys


def read(
    driver: Driver, files: list[SourceFile], has_splits: bool, on_rows: OnRows
) -> tuple[Rows, list[FileReport]]:
    """Read all files.

    Args:
        has_splits: whether rows are to keep the split that their file's name tells.

    Raises:
        AdarError: a file cannot be read, there is nothing in any, or their times count differently.
    """
    # Training first: if a pair is in both training and test, the one in training is kept.
    files = sorted(files, key=lambda file: (SPLITS.index(file.split or "train"), file.path))
    results = list(driver.run(_read_file, [(file, has_splits) for file in files], on_rows))
    blocks = [block for result in results for block in result.blocks]
    if not blocks:
        raise AdarError(f"{files[0].path}: holds no interactions")
    reports: list[FileReport] = [result.found for result in results]
    _check_units(reports)
    count, users, items = 0, KeyTable("user", files[0].path), KeyTable("item", files[0].path)
    for result in driver.run(_keys, [(block,) for block in blocks]):
        rows, user_keys, item_keys = result.found
        count += rows
        users.add(user_keys)
        items.add(item_keys)
    return Rows(blocks, count, users.finish(), items.finish()), reports


def _check_units(reports: list[FileReport]) -> None:
    in_unit = {report.time_unit: report.path for report in reports if report.time_unit}
    if len(in_unit) > 1:
        (unit, path), (other_unit, other_path) = list(in_unit.items())[:2]
        raise AdarError(
            f"{path}: its times are {unit}, those of {other_path} {other_unit}; convert one of them, or pass "
            "--timestamp-unit if all count the same"
        )


def _read_file(file: SourceFile, has_splits: bool) -> Generator[pa.Table, None, FileReport]:
    reader = FileReader(file)
    given = SPLITS.index(file.split or "train")
    tables: list[pa.Table] = []
    rows = 0
    for table in read_ahead(reader.tables()):
        tables.append(table)
        rows += table.num_rows
        if rows >= _ROWS_PER_BLOCK:
            yield _block(tables, file, given if has_splits else None)
            tables, rows = [], 0
    if tables:
        yield _block(tables, file, given if has_splits else None)
    return FileReport(file.path, reader.bad.rows, reader.is_empty, reader.time_unit)


def _block(tables: list[pa.Table], file: SourceFile, given: int | None) -> pa.Table:
    table = pa.concat_tables(tables)
    columns = {name: table[name].dictionary_encode().combine_chunks() for name in ("user", "item")}
    columns["timestamp"] = table["timestamp"]
    if file.has_rating:
        columns["rating"] = table["rating"]
    if file.has_weight:
        columns["weight"] = table["weight"]
    if given is not None:
        columns["given"] = pa.array(np.full(table.num_rows, given, np.int8))
    return pa.table(columns)


def _keys(block: pa.Table) -> Generator[pa.Table, None, tuple[int, pa.Array, pa.Array]]:
    yield from ()
    return block.num_rows, *(block[name].combine_chunks().dictionary for name in ("user", "item"))
