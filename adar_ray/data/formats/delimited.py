"""Formats with one interaction per line, whose fields are separated by a delimiter and never quoted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.columns import check_columns
from adar_ray.data.files import head, lines_of
from adar_ray.data.formats.base import Batch
from adar_ray.data.formats.table import Table
from adar_ray.errors import counted

BLANKS = " \t"


@dataclass(frozen=True, kw_only=True)
class Delimited(Table):
    """Fields that are never quoted. Outer spaces do not count.

    Args:
        has_types: whether the header gives types as well, as RecBole's does (`name:type`).
    """

    has_types: bool = False

    def first_records(self, path: str, count: int) -> list[list[str]]:
        records = [
            [field.strip(BLANKS) for field in line.split(self.delimiter)]
            for line in head(path, self.encoding)[:count]
        ]
        if self.has_types:
            records[0] = [name.partition(":")[0] for name in records[0]]
        return records

    def column_types(self, path: str) -> dict[str, str]:
        if not self.has_types:
            return {}
        header = head(path, self.encoding)[0].split(self.delimiter)
        return {
            name.strip(BLANKS): kind.strip(BLANKS) for name, _, kind in (f.partition(":") for f in header)
        }

    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        names = self.column_names(path)
        check_columns(path, names, columns)
        header_lines = 1 if self.columns is None else 0
        for lines, numbers in lines_of(path, block_bytes, self.encoding, bad):
            lines, numbers, header_lines = lines[header_lines:], numbers[header_lines:], 0
            fields = pc.split_pattern(lines, self.delimiter) if self.delimiter else split_words(lines)
            counts = pc.list_value_length(fields).to_numpy()
            is_right = counts == len(names)
            if not is_right.all():
                for at in np.flatnonzero(~is_right).tolist():
                    problem = f"expected {counted(len(names), 'field')}, found {counts[at]}"
                    bad.add(int(numbers[at]), problem, lines[at].as_py())
                fields, numbers = fields.filter(pa.array(is_right)), numbers[is_right]
            batch = {key: pc.list_element(fields, names.index(name)) for key, name in columns.items()}
            yield {key: pc.ascii_trim(column, BLANKS) for key, column in batch.items()}, numbers


def split_words(lines: pa.Array) -> pa.ListArray:
    # Only ASCII spaces separate words: a no-break or ideographic space may be part of an id.
    return pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))


INTER = Delimited(
    name="inter",
    description="RecBole: tab-separated with a typed header (user_id:token item_id:token ...)",
    sure_names=("*.inter",),
    stands_out=True,
    first_line=r"\S+:(token|float)(_seq)?(\t\S+:(token|float)(_seq)?)+",
    delimiter="\t",
    has_types=True,
)
TSV = Delimited(
    name="tsv",
    description="tab-separated, never quoted",
    sure_names=("*.tsv", "user_artists.dat"),
    delimiter="\t",
    has_free_header=True,
)
