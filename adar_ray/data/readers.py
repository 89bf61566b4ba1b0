"""Read the interactions of a source as a stream of Arrow tables, in bounded memory.

A format reads the columns that it finds, with the place of each row in the file: its line, or its number
where lines mean nothing (Parquet) or are only known after a second look (quoted CSV). The rest is common:
columns become the canonical ones, and an error names the place of a value that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from adar_ray.data.sources import SourceFile
from adar_ray.data.values import BadValueError, to_canonical
from adar_ray.errors import AdarError

_COPIES = 8  # what is read lives for a moment as bytes, lines, fields and columns as well


def read_tables(file: SourceFile, block_bytes: int = 32 << 20) -> Iterator[pa.Table]:
    """Yield the interactions of a file as `values.CANONICAL` tables.

    Args:
        file: what to read.
        block_bytes: about the memory to work in.

    Raises:
        AdarError: the file cannot be read, or a value does not fit; the message names the line or row.
    """
    rows = 0
    for columns, places in file.format.read(file.path, file.columns, max(1, block_bytes // _COPIES)):
        if not len(places):
            continue
        try:
            yield to_canonical(columns, rows)
        except BadValueError as bad:
            place = file.format.place(file.path, int(places[bad.index]))
            raise AdarError(f"{file.path}: {place}: {bad}; correct or remove it") from None
        rows += len(places)
