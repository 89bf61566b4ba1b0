"""Formats with one interaction per line, whose fields are separated by a delimiter and never quoted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.columns import check_columns
from adar_ray.data.files import lines_of, wrong_field_count
from adar_ray.data.formats.base import Batch, Format, first_line_of


@dataclass(frozen=True, kw_only=True)
class Delimited(Format):
    """Lines of fields that are never quoted.

    Args:
        delimiter: what separates the fields; None for runs of ASCII white space.
        columns: the fields of a line; None if the first line names them as RecBole does (`name:type`).
        encoding: of the text.
    """

    delimiter: str | None
    columns: tuple[str, ...] | None = None
    encoding: str = "utf-8"

    def column_names(self, path: str) -> list[str]:
        if self.columns is not None:
            return list(self.columns)
        return [name.partition(":")[0] for name in first_line_of(path).split(self.delimiter)]

    def read(self, path: str, columns: dict[str, str], block_bytes: int) -> Iterator[Batch]:
        names = self.column_names(path)
        check_columns(path, names, columns)
        header_lines = 1 if self.columns is None else 0
        for lines, numbers in lines_of(path, block_bytes, self.encoding):
            lines, numbers, header_lines = lines[header_lines:], numbers[header_lines:], 0
            fields = pc.split_pattern(lines, self.delimiter) if self.delimiter else split_words(lines)
            counts = pc.list_value_length(fields).to_numpy()
            wrong = np.flatnonzero(counts != len(names))
            if len(wrong):
                raise wrong_field_count(path, numbers[wrong[0]], counts[wrong[0]], len(names))
            yield {key: pc.list_element(fields, names.index(name)) for key, name in columns.items()}, numbers


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
)
