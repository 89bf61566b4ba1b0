"""What a source format declares, and what it can do."""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.files import UTF8
from adar_ray.data.options import ReadOptions
from adar_ray.errors import AdarError

FEATURE = "feature "
"""What the key of a column begins with that holds a feature of items; its name follows."""

F = TypeVar("F", bound="Format")
Batch = tuple[dict[str, pa.Array], np.ndarray]
"""The canonical columns of some rows, as found, and each row's number in the file (see `Format.row_unit`)."""


class Match(enum.Enum):
    """How well the first lines of a file fit a format."""

    NO = enum.auto()
    POSSIBLE = enum.auto()
    CERTAIN = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Format(ABC):
    """One source format, declared once. Add it to `adar_ray.data.formats.FORMATS` to make it known.

    File names are given as patterns in lower case, without the ending of a compression.

    Args:
        name: the name that `--format` takes.
        description: one line for people.
        sure_names: file names that settle the format by themselves.
        other_names: further names that files of the format have in a folder. Their first lines decide.
        stands_out: whether these names mean nothing else, so that the files are picked out of a folder
            that holds other files too.
        first_line: a regular expression that the first line of such a file matches in full.
        every_line: a regular expression that every line at the top of such a file matches in full.
        dialect_of: the general format of which this is a special form. A file whose name settles the general
            format has the special one if its first line matches; lines alone do not recognize a dialect.
        in_time_order: whether the lines of each user are in order of time.
        any_word_is_an_id: whether words such as `None` are names like any other.
        encoding: of the text; None if the format is not text.
        row_unit: what the numbers of rows count.
    """

    name: str
    description: str
    sure_names: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    stands_out: bool = False
    first_line: str | None = None
    every_line: str | None = None
    dialect_of: Format | None = None
    in_time_order: bool = False
    any_word_is_an_id: bool = False
    encoding: str | None = UTF8
    row_unit: str = "line"

    def has_sure_name(self, name: str) -> bool:
        """Whether the name of a file settles that it has this format."""
        return _matches_any(name, self.sure_names)

    def has_name(self, name: str) -> bool:
        """Whether files of this format are called like this."""
        return _matches_any(name, self.sure_names + self.other_names)

    def recognize(self, name: str, lines: list[str]) -> Match:
        """Judge a file by its first lines that are not blank, and by its name where lines leave a doubt."""
        if self.first_line and re.fullmatch(self.first_line, lines[0]):
            return Match.CERTAIN
        if self.every_line and all(re.fullmatch(self.every_line, line) for line in lines):
            return Match.CERTAIN
        return Match.NO

    def adapted(self, path: str, options: ReadOptions, given_columns: dict[str, str]) -> Format:
        """This format as the options, and what they leave open, the first file at `path`, make it.

        Raises:
            AdarError: an option means nothing to this format, or the file leaves it open.
        """
        for flag, value in (("--separator", options.separator), ("--header", options.header)):
            if value is not None:
                raise AdarError(f"{flag} {value!r}: means nothing to the format {self.name}; drop it")
        return self.in_encoding(options.encoding)

    def in_encoding(self: F, encoding: str | None) -> F:
        """This format in another encoding, if one is given."""
        if encoding is None:
            return self
        if self.encoding is None:
            raise AdarError(f"--encoding {encoding}: means nothing to the format {self.name}; drop it")
        return dataclasses.replace(self, encoding=encoding)

    @abstractmethod
    def column_names(self, path: str) -> list[str]:
        """The names of a file's columns, without their types."""

    def column_types(self, path: str) -> dict[str, str]:
        """The types that a file's header gives its columns, by name; empty for most formats."""
        return {}

    @abstractmethod
    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        """Read the rows of a file.

        Args:
            path: a path or an address.
            columns: the file's own name for each canonical column to read, and for features of items, which
                may be lists.
            block_bytes: bytes of the file to hold at a time.
            bad: takes the rows that do not have this format.

        Raises:
            AdarError: the file is damaged, or has too many bad rows.
        """


def numbered_rows(batches: Iterable[pa.RecordBatch], columns: dict[str, str]) -> Iterator[Batch]:
    """Record batches as `Batch`es whose places are the numbers of their rows, from 1 on."""
    rows = 0
    for batch in batches:
        places = np.arange(rows + 1, rows + 1 + batch.num_rows)
        rows += batch.num_rows
        yield {key: batch.column(name) for key, name in columns.items()}, places


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
