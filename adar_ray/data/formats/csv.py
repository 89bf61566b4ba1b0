"""CSV with a header, quoted where need be, and its variants with another delimiter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.csv as pacsv

from adar_ray.data.columns import check_columns
from adar_ray.data.files import NOT_UTF8, bad_line, csv_records, is_text, open_file, wrong_field_count
from adar_ray.data.formats.base import Batch, Format, numbered_rows
from adar_ray.errors import AdarError, one_line

_SMALLEST_BLOCK = 1 << 20  # a row has to fit in a block


@dataclass(frozen=True, kw_only=True)
class Csv(Format):
    """Fields that may be quoted, under a header."""

    delimiter: str

    def column_names(self, path: str) -> list[str]:
        return next(csv_records(path, self.delimiter, strict=True))[1]

    def read(self, path: str, columns: dict[str, str], block_bytes: int) -> Iterator[Batch]:
        names = self.column_names(path)
        check_columns(path, names, columns)
        used = sorted(set(columns.values()))
        with open_file(path) as stream:
            source = _QuoteCounter(stream)
            try:
                reader = pacsv.open_csv(
                    pa.PythonFile(source, "r"),
                    pacsv.ReadOptions(use_threads=False, block_size=max(block_bytes, _SMALLEST_BLOCK)),
                    pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                    pacsv.ConvertOptions(include_columns=used, column_types=dict.fromkeys(used, pa.string())),
                )
                yield from numbered_rows(reader, columns)
            except (pa.ArrowException, OSError) as error:
                self._raise_fault(path, names, columns)
                raise AdarError(f"{path}: {one_line(error)}; correct the file") from error
        if source.quotes % 2:
            self._raise_fault(path, names, columns)

    def _raise_fault(self, path: str, names: list[str], columns: dict[str, str]) -> None:
        """Read the file again, slowly, and raise an error with the line where it stops being CSV."""
        used = [names.index(name) for name in columns.values()]
        for line, fields in csv_records(path, self.delimiter, strict=True):
            if len(fields) != len(names):
                raise wrong_field_count(path, line, len(fields), len(names))
            if not all(is_text(fields[position]) for position in used):
                raise bad_line(path, line, *NOT_UTF8)

    def place(self, path: str, number: int) -> str:
        """The line of a row, found by a second look, since a quoted field may hold line breaks."""
        records = csv_records(path, self.delimiter, strict=False)  # record 0 is the header
        line, _ = next(islice(records, number, None))
        return f"line {line}"


class _QuoteCounter:
    """A stream for Arrow that counts quotes: Arrow takes a quote that never closes for the last value."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream = stream
        self.quotes = 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.quotes += data.count(b'"')
        return data


CSV = Csv(
    name="csv",
    description="comma-separated with a header",
    sure_names=("*.csv",),
    delimiter=",",
)
TSV = Csv(
    name="tsv",
    description="tab-separated with a header",
    sure_names=("*.tsv", "user_artists.dat"),
    delimiter="\t",
)
