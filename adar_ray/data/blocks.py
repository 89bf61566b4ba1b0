"""Ray Data, a whole block at a time, as Arrow tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import ray.data


def numbered_blocks(column: str, count: int) -> ray.data.Dataset:
    """`count` blocks of one row each, whose `column` counts them from 0."""
    return ray.data.from_items([{column: n} for n in range(count)], override_num_blocks=count)


def map_blocks(rows: ray.data.Dataset, function: Callable[..., Any], *arguments: object) -> ray.data.Dataset:
    """Call `function(*arguments, block)` on every block, in parallel."""
    if arguments:
        function = functools.partial(function, *arguments)
    return rows.map_batches(function, batch_size=None, batch_format="pyarrow")


def arrow_blocks(rows: ray.data.Dataset) -> Iterable[pa.Table]:
    """Run the plan and yield its blocks."""
    return rows.iter_batches(batch_size=None, batch_format="pyarrow")
