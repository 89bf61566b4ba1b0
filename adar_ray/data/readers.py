"""Read the interactions of a source as a stream of Arrow tables, in bounded memory.

A format reads the columns that it finds, with the place of each row in the file: its line, or its number
where lines mean nothing (Parquet). The rest is common: columns become the canonical ones, and an error names
the place of a value that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.compression import EmptyFileError
from adar_ray.data.formats.base import Batch
from adar_ray.data.sources import SourceFile
from adar_ray.data.values import ValueConverter, into_bad_rows

_COPIES = 8  # what is read lives for a moment as bytes, lines, fields and columns as well


class FileReader:
    """Reads one file of a source.

    Attributes:
        bad: the rows that were skipped so far.
        is_empty: whether the file has no content; known once it is read.
    """

    def __init__(self, file: SourceFile) -> None:
        self.file = file
        self.bad = BadRows(file.path, file.format.row_unit, file.options.max_bad_rows)
        self.is_empty = False
        self._converter = ValueConverter(file.options)

    @property
    def time_unit(self) -> str | None:
        """What the file's times count in, as far as it has been read."""
        return self._converter.times.unit

    def tables(self, block_bytes: int = 16 << 20) -> Iterator[pa.Table]:
        """Yield the interactions as `values.CANONICAL` tables.

        Args:
            block_bytes: about the memory to work in.

        Raises:
            AdarError: the file cannot be read, or has too many bad rows; the message names the line or row.
        """
        rows = 0
        try:
            for columns, places in self._batches(max(1, block_bytes // _COPIES)):
                if not len(places):
                    continue
                on_bad = into_bad_rows(self.bad, columns, places)
                table = self._converter.to_canonical(columns, rows, on_bad)
                rows += table.num_rows
                if table.num_rows:
                    yield table
        except EmptyFileError:  # one empty part among others
            self.is_empty = True

    def _batches(self, block_bytes: int) -> Iterator[Batch]:
        file = self.file
        in_path = {key: file.partition[name] for key, name in file.columns.items() if name in file.partition}
        in_file = {key: name for key, name in file.columns.items() if name not in file.partition}
        for columns, places in file.format.read(file.path, in_file, block_bytes, self.bad):
            constant = {key: pa.repeat(pa.scalar(value), len(places)) for key, value in in_path.items()}
            yield columns | constant, places
