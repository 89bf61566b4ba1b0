"""CSV: fields that may be quoted (RFC 4180), and its variants with another separator.

A chunk whose quotes are all in their places goes to Arrow's parser. Any other is read field by field, which
takes longer, and finds the line where it stops being CSV: Arrow, like most parsers, takes a stray quote for
the start of a field and swallows the lines up to the next one.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.columns import check_columns
from adar_ray.data.compression import EmptyFileError
from adar_ray.data.files import NOT_UTF8, chunks
from adar_ray.data.formats.base import Batch
from adar_ray.data.formats.delimited import BLANKS, Delimited
from adar_ray.data.formats.table import Table
from adar_ray.errors import AdarError, counted

_LONGEST_RECORD = 1 << 24
_SMALLEST_BLOCK = 1 << 16
Record = tuple[int, list[bytes]]
"""The line where a record begins, and its fields."""
_QUOTE, _LINE_FEED = ord('"'), ord("\n")


@dataclass(frozen=True, kw_only=True)
class Csv(Table):
    """Fields that may be quoted. Outer spaces count within quotes alone."""

    def with_separator(self, separator: str) -> Table:
        if len(separator) == 1 and separator.isascii() and not separator.isspace():
            return super().with_separator(separator)
        # Nobody quotes fields between such separators in the same way.
        plain = Delimited(name=self.name, description=self.description, delimiter=",", has_free_header=True)
        return plain.with_separator(separator)

    def first_records(self, path: str, count: int) -> list[list[str]]:
        bad = BadRows(path, limit=sys.maxsize)
        found: list[Record] = []
        text = chunks(path, _SMALLEST_BLOCK, self.encoding)
        for records in _Parser(self._separator, bad).parse(text, limit=count):
            assert isinstance(records, list)  # there is no fast way here
            found += records
            if len(found) >= count:
                break
        if bad.rows and (not found or bad.rows[0].number < found[0][0]):
            # A header that cannot be read leaves nothing to go on, whatever rows may be skipped.
            raise AdarError(f"{path}: {bad.rows[0].place}: {bad.rows[0].problem}; correct it")
        if not found:
            raise EmptyFileError(path)
        return [[field.decode(errors="replace") for field in fields] for _, fields in found[:count]]

    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        names = self.column_names(path)
        check_columns(path, names, columns)
        positions = {key: names.index(name) for key, name in columns.items()}
        header_lines = 1 if self.columns is None else 0
        parser = _Parser(self._separator, bad)
        text = chunks(path, max(block_bytes, _SMALLEST_BLOCK), self.encoding)
        fast = functools.partial(self._parse_fast, len(names), positions)
        for found in parser.parse(text, fast, header_lines):
            if isinstance(found, list):
                yield _batch(found, len(names), positions, bad)
            else:
                yield found

    @property
    def _separator(self) -> bytes:
        assert self.delimiter is not None
        return self.delimiter.encode()

    def _parse_fast(self, fields: int, positions: dict[str, int], line: int, data: bytes) -> Batch | None:
        """Parse whole records with Arrow; None if anything about them is unusual."""
        lines = _record_lines(line, data, ord(self._separator))
        if lines is None:
            return None
        names = [str(position) for position in range(fields)]
        used = [names[position] for position in dict.fromkeys(positions.values())]
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
                pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                pacsv.ConvertOptions(include_columns=used, column_types=dict.fromkeys(used, pa.string())),
            )
        except pa.ArrowException:
            return None
        if table.num_rows != len(lines):
            return None
        columns = {key: table[names[position]].combine_chunks() for key, position in positions.items()}
        if b'"' in data and any(pc.any(pc.match_substring(it, "\n")).as_py() for it in columns.values()):
            return None
        return {key: pc.ascii_trim(column, BLANKS) for key, column in columns.items()}, lines


def _whole_records(data: bytes) -> int:
    """The length of the part that ends with the last line feed outside quotes, if all quotes are regular."""
    end = data.rfind(b"\n") + 1
    while data.count(b'"', 0, end) % 2:
        end = data.rfind(b"\n", 0, data.rfind(b'"', 0, end)) + 1
    return end


def _record_lines(first: int, data: bytes, separator: int) -> np.ndarray | None:
    """The line of each record; None if a quote is not where a field begins or ends, or next to a space."""
    byte = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(byte == _LINE_FEED)
    if not len(ends) or ends[-1] != len(byte) - 1:
        ends = np.append(ends, len(byte))
    if b'"' not in data:
        return np.arange(first, first + len(ends))
    quotes = np.flatnonzero(byte == _QUOTE)
    if len(quotes) % 2:
        return None
    opening, closing = quotes[::2], quotes[1::2]
    padded = np.pad(byte, 1, constant_values=_LINE_FEED)  # byte n is at n + 1
    before, after = padded[opening], padded[closing + 2]
    # An escaped quote looks like one that ends a field and one that begins the next.
    begins = np.isin(before, (separator, _LINE_FEED, _QUOTE))
    stops = np.isin(after, (separator, _LINE_FEED, ord("\r"), _QUOTE))
    inside = np.concatenate([padded[opening + 2][before != _QUOTE], padded[closing][after != _QUOTE]])
    if not (begins.all() and stops.all()) or np.isin(inside, (ord(" "), ord("\t"))).any():
        return None
    is_end = np.searchsorted(quotes, ends) % 2 == 0
    return first + np.concatenate([[0], np.flatnonzero(is_end)[:-1] + 1])


class _Parser:
    """Splits text into records, field by field."""

    def __init__(self, separator: bytes, bad: BadRows) -> None:
        end = rb"(?=" + re.escape(separator) + rb"|\r?\n|\r?\Z)"
        self._quoted = re.compile(rb'[ \t]*"([^"]*(?:""[^"]*)*)"(?!")')
        self._field_end = re.compile(rb"[ \t]*" + end)
        self._plain = re.compile(rb"[^" + re.escape(separator) + rb"\n]*")
        self._opening = re.compile(rb'[ \t]*"')
        self._separator, self._bad = separator, bad

    def parse(
        self,
        text: Iterator[tuple[int, bytes]],
        fast: Callable[[int, bytes], Batch | None] = lambda line, data: None,
        header_lines: int = 0,
        limit: int | None = None,
    ) -> Iterator[Batch | list[Record]]:
        """Yield the records of chunks of text: what `fast` makes of whole records, else a list of them.

        Args:
            text: the number of the first line of each chunk, and the chunk.
            header_lines: records to leave out.
            limit: how many records to look for in each chunk, for a caller that needs no more.
        """
        rest, line = b"", 1
        for number, chunk in itertools.chain(text, [(0, b"")]):  # the last one has nothing to wait for
            is_last = not chunk
            data = rest + chunk
            if not data:
                break
            line = line if rest or is_last else number
            if header_lines:
                header, end = self._records(line, data, is_last, header_lines)
                header_lines -= len(header)
                line, data = line + data.count(b"\n", 0, end), data[end:]
            whole = len(data) if is_last else _whole_records(data)
            batch = fast(line, data[:whole]) if whole and not header_lines else None
            if batch is not None:
                yield batch
            elif not header_lines:
                records, whole = self._records(line, data, is_last, limit)
                yield records
            else:
                whole = 0
            line, rest = line + data.count(b"\n", 0, whole), data[whole:]

    def _records(
        self, line: int, data: bytes, is_last: bool, limit: int | None = None
    ) -> tuple[list[Record], int]:
        """The records of `data`, up to `limit` of them, and where the next one begins."""
        records: list[Record] = []
        at = 0
        while at < len(data) and (limit is None or len(records) < limit):
            fields, end = self._record(data, at)
            if fields is None:
                if end is None and not is_last and len(data) - at <= _LONGEST_RECORD:
                    break  # the next chunk may close the quote
                problem = "a quote is not closed" if end is None else "text after the quote that ends a field"
                end = data.find(b"\n", at) + 1 or len(data)
                text = data[at:end].decode(errors="replace")
                self._bad.add(line, f"not valid CSV ({problem})", text)
            elif any(fields) or len(fields) > 1:  # else the line is blank
                records.append((line, fields))
            assert end is not None
            line, at = line + data.count(b"\n", at, end), end
        return records, at

    def _record(self, data: bytes, at: int) -> tuple[list[bytes] | None, int | None]:
        """The fields of the record at `at` and where the next one begins.

        Without fields, it is not valid; without an end, it has a quote that is not closed.
        """
        fields = []
        while True:
            if self._opening.match(data, at):
                quoted = self._quoted.match(data, at)
                if quoted is None:
                    return None, None
                found = self._field_end.match(data, quoted.end())
                if found is None:
                    return None, quoted.end()
                fields.append(quoted[1].replace(b'""', b'"'))
            else:
                found = self._plain.match(data, at)
                assert found is not None
                fields.append(found[0].strip(b" \t\r"))
            at = found.end()
            if data.startswith(self._separator, at):
                at += len(self._separator)
                continue
            end = data.find(b"\n", at)
            return fields, end + 1 if end >= 0 else len(data)


def _batch(
    records: list[tuple[int, list[bytes]]], count: int, positions: dict[str, int], bad: BadRows
) -> Batch:
    """The wanted columns of records that have the right number of fields, all in UTF-8."""
    lines: list[int] = []
    columns: dict[str, list[str]] = {key: [] for key in positions}
    for line, fields in records:
        if len(fields) != count:
            text = b",".join(fields).decode(errors="replace")
            bad.add(line, f"expected {counted(count, 'field')}, found {len(fields)}", text)
            continue
        try:
            values = {key: fields[position].decode() for key, position in positions.items()}
        except UnicodeDecodeError:
            bad.add(line, NOT_UTF8, b",".join(fields).decode(errors="replace"))
            continue
        if any("\n" in value for value in values.values()):
            bad.add(line, "a field holds a line break: is a quote not closed?", str(values))
            continue
        lines.append(line)
        for key, value in values.items():
            columns[key].append(value)
    return {key: pa.array(values, pa.string()) for key, values in columns.items()}, np.array(lines, np.int64)


CSV = Csv(
    name="csv",
    description="comma-separated, quoted where need be",
    sure_names=("*.csv",),
    delimiter=",",
    has_free_header=True,
)
