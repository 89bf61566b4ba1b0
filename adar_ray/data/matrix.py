"""Matrices as table columns: lists of a fixed size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def to_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """Turn a matrix into a column with a list for each row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Turn a column of `to_column` back into its matrix `[rows, size]`."""
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), column.type.list_size)
