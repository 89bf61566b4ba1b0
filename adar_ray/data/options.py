"""How to read a source: what its files do not say themselves."""

from __future__ import annotations

import codecs
import datetime
import re
from dataclasses import dataclass
from typing import Literal

from adar_ray.errors import AdarError
from adar_ray.limits import MOST_ROWS, check_number

TimestampUnit = Literal["s", "ms", "us", "ns"]
TIMESTAMP_UNITS: tuple[TimestampUnit, ...] = ("s", "ms", "us", "ns")
HEADERS = ("first", "none")
NULL_WORDS = ("nan", "null", "none", "na", "n/a", "<na>", "#n/a", "\\N")
"""Ids that stand for no value, in small letters, capitals or mixed: what pandas, R, SQL and MySQL write."""


@dataclass(frozen=True)
class ReadOptions:
    """How to read a source. Whatever is None is recognized.

    Args:
        separator: what separates the fields of a line; a space stands for any white space.
        header: `first` if the first line names the columns, `none` if it is data.
        encoding: of the text, as Python calls it; a byte order mark wins.
        null_words: ids that stand for no value.
        timestamp_unit: what numbers in the column of times count.
        timestamp_format: how times are written, as Python's `strptime` describes it.
        max_bad_rows: how many rows may be skipped because they cannot be read.
    """

    separator: str | None = None
    header: str | None = None
    encoding: str | None = None
    null_words: tuple[str, ...] = NULL_WORDS
    timestamp_unit: TimestampUnit | None = None
    timestamp_format: str | None = None
    max_bad_rows: int = 0

    def __post_init__(self) -> None:
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.header is not None and self.header not in HEADERS:
            raise AdarError(f"--header {self.header}: give one of {', '.join(HEADERS)}")
        if self.timestamp_unit is not None and self.timestamp_unit not in TIMESTAMP_UNITS:
            units = ", ".join(TIMESTAMP_UNITS)
            raise AdarError(f"--timestamp-unit {self.timestamp_unit}: give one of {units}")
        if self.timestamp_unit is not None and self.timestamp_format is not None:
            raise AdarError("--timestamp-unit is for numbers, --timestamp-format for text; give one of them")
        if self.timestamp_format is not None:
            _check_timestamp_format(self.timestamp_format)
        if self.separator is not None and (not self.separator or set(self.separator) & set('\r\n"')):
            raise AdarError(f"--separator {self.separator!r}: give the characters between two fields")
        check_number("--max-bad-rows", self.max_bad_rows, 0, MOST_ROWS)


def _check_encoding(encoding: str) -> None:
    try:
        "x".encode(codecs.lookup(encoding).name)
    except (LookupError, ValueError):  # some codecs are not of text
        raise AdarError(f"--encoding {encoding}: unknown; for instance latin-1, cp1252, utf-16") from None


def _check_timestamp_format(format: str) -> None:
    try:
        datetime.datetime.strptime("", format)
    except (ValueError, re.error) as error:
        if "does not match" in str(error):
            return
        problem = "a directive is there twice" if isinstance(error, re.error) else error
        whom = f"--timestamp-format {format!r}"
        raise AdarError(f"{whom}: {problem}; give a format of Python's strptime") from None
