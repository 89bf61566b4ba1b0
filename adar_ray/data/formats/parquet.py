"""Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.columns import check_columns
from adar_ray.data.files import open_parquet
from adar_ray.data.formats.base import Batch, Format, numbered_rows
from adar_ray.errors import AdarError, one_line

_ROW_BYTES = 64  # about what a canonical row takes in memory


class Parquet(Format):
    """Parquet files with a column each for users, items, ratings and times."""

    def column_names(self, path: str) -> list[str]:
        return open_parquet(path).schema_arrow.names

    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        parquet = open_parquet(path)
        check_columns(path, parquet.schema_arrow.names, columns)
        rows = max(1, block_bytes // _ROW_BYTES)
        try:
            batches = parquet.iter_batches(rows, columns=sorted(set(columns.values())))
            yield from numbered_rows(batches, columns)
        except (pa.ArrowException, OSError) as error:
            raise AdarError(f"{path}: damaged ({one_line(error)}); fetch the file again") from error


PARQUET = Parquet(
    name="parquet",
    description="Parquet",
    sure_names=("*.parquet", "*.pq"),
    first_line="PAR1.*",
    encoding=None,
    row_unit="row",
)
