"""What a source format declares, and what it can do."""

from __future__ import annotations

import enum
import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from adar_ray.data.files import head

Batch = tuple[dict[str, pa.Array], np.ndarray]
"""The canonical columns of some rows, as found, and each row's place in the file (see `Format.place`)."""


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
        names_tell_split: whether the names of the files say train, valid or test.
        first_line: a regular expression that the first line of such a file matches in full.
        every_line: a regular expression that every line at the top of such a file matches in full.
        dialect_of: the general format of which this is a special form. A file whose name settles the general
            format has the special one if its first line matches; lines alone do not recognize a dialect.
    """

    name: str
    description: str
    sure_names: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()
    stands_out: bool = False
    names_tell_split: bool = False
    first_line: str | None = None
    every_line: str | None = None
    dialect_of: Format | None = None

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

    @abstractmethod
    def column_names(self, path: str) -> list[str]:
        """The names of a file's columns, without their types."""

    @abstractmethod
    def read(self, path: str, columns: dict[str, str], block_bytes: int) -> Iterator[Batch]:
        """Read the rows of a file.

        Args:
            path: a path or an address.
            columns: the file's own name for each canonical column to read.
            block_bytes: bytes of the file to hold at a time.

        Raises:
            AdarError: the file is damaged, or a line does not have this format.
        """

    def place(self, path: str, number: int) -> str:
        """Where a row is, in words: by default `number` is its line."""
        return f"line {number}"


def first_line_of(path: str) -> str:
    """The first line of a file that is not blank."""
    return head(path)[0]


def numbered_rows(batches: Iterable[pa.RecordBatch], columns: dict[str, str]) -> Iterator[Batch]:
    """Record batches as `Batch`es whose places are the numbers of their rows, from 1 on."""
    rows = 0
    for batch in batches:
        places = np.arange(rows + 1, rows + 1 + batch.num_rows)
        rows += batch.num_rows
        yield {key: batch.column(name) for key, name in columns.items()}, places


def split_in(name: str) -> str | None:
    """The split that the name of a file begins with, if any."""
    found = re.match("train|valid|test", name)
    return found[0] if found else None


def _matches_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
