"""Matrices as columns of tables: lists of one fixed size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A list for each of the matrix's rows."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """`[rows, size]`: what `to_column` was given."""
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), column.type.list_size)
