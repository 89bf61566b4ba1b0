"""The metrics of each user, in a Parquet file that a record beside it vouches for by its checksum.

Legend: U users with interactions in the split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from adar_ray.storage import Folder

UserFigures = dict[str, np.ndarray]
"""`metric@k` -> a number for each user, in the order of the dataset's users."""


def join_tiles(tiles: Sequence[Mapping[str, torch.Tensor]]) -> UserFigures:
    """The metrics of all users from those of each tile of them, by name; at least one tile."""
    return {name: torch.cat([tile[name] for tile in tiles]).numpy() for name in tiles[0]}


def read_user_figures(folder: Folder, name: str, sha256: str) -> UserFigures | None:
    """The metrics in a file, whose other columns say whose they are; None if it is missing or another one."""
    content = folder.read_bytes(name) if folder.exists(name) else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    table = pq.ParquetFile(pa.BufferReader(content)).read()
    return {metric: table[metric].to_numpy() for metric in table.column_names if "@" in metric}


def mean_over_users(value_U: np.ndarray) -> float:
    """The mean over the users who count, those whose value is not NaN."""
    return float(value_U[~np.isnan(value_U)].mean())
