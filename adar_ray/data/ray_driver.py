"""Running the steps of `prepare` and `synthesize` on a Ray cluster.

Tables are in Ray's object store, which spills to disk. Ray Data brings together what a shuffle asks for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from adar_ray.data.driver import Block, Driver, OnRows, Result, ShuffleTask, Task
from adar_ray.data.sorting import stable_order

_PART, _ORDER = "part", "order"  # columns that tables have during a shuffle
_ROWS_OF_A_TASK = 40  # bits


class RayDriver(Driver):
    """Runs tasks on the cluster that Ray is connected to."""

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def run(
        self, task: Task, inputs: Iterable[tuple[Any, ...]], on_rows: OnRows = lambda rows: None
    ) -> Iterator[Result]:
        remote = ray.remote(_call).options(num_returns="streaming")
        rows = 0
        for outputs in [remote.remote(task, *arguments) for arguments in inputs]:
            blocks: list[Block] = []
            output = next(outputs)
            for count in outputs:
                blocks.append(output)
                rows += ray.get(count)
                on_rows(rows)
                output = next(outputs)
            yield Result(blocks, ray.get(output))

    def shuffle(self, task: ShuffleTask, inputs: Iterable[tuple[Any, ...]], parts: int) -> list[Block]:
        numbered = [(task, number, *arguments) for number, arguments in enumerate(inputs)]
        blocks = [block for result in self.run(_numbered, numbered) for block in result.blocks]
        source = ray.data.from_arrow_refs(blocks)
        source.context.target_max_block_size = None  # else Ray Data cuts large blocks
        together = source.repartition(parts, keys=[_PART]) if parts > 1 else source.repartition(1)
        rows = together.map_batches(_in_order, batch_size=None, batch_format="pyarrow")
        return [
            block.ref
            for bundle in rows.iter_internal_ref_bundles()
            for block in bundle.blocks
            if block.metadata.num_rows
        ]


def _call(task: Task, *arguments: Any) -> Iterator[Any]:
    """Yield each table and its number of rows, and at last what the task has found."""
    tables = task(*arguments)
    while True:
        try:
            table = next(tables)
        except StopIteration as end:
            yield end.value
            return
        yield table
        yield table.num_rows


def _numbered(task: ShuffleTask, number: int, *arguments: Any) -> Generator[pa.Table, None, None]:
    """The tables of a shuffle with the part of each row, and its place among all rows of all tasks."""
    first = number << _ROWS_OF_A_TASK
    for part_E, table in task(*arguments):
        order_E = np.arange(first, first + table.num_rows)
        yield table.append_column(_PART, pa.array(part_E)).append_column(_ORDER, pa.array(order_E))
        first += table.num_rows


def _in_order(table: pa.Table) -> pa.Table:
    if table.num_rows:
        table = table.take(stable_order(table[_ORDER].to_numpy())).drop_columns([_PART, _ORDER])
    return table
