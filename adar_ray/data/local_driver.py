"""Running the steps of `prepare` and `synthesize` in this process.

Legend: E rows, P parts.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from adar_ray.data.driver import Block, Driver, OnRows, Result, ShuffleTask, Task
from adar_ray.data.sorting import stable_order
from adar_ray.process import usable_cpus

T = TypeVar("T")

_KEPT_BYTES = 1 << 30  # of tables in memory; more go to disk
_THREADS = 8
_SECONDS_BETWEEN_REPORTS = 0.1


class LocalDriver(Driver):
    """Runs tasks in threads of this process: Arrow and numpy work side by side.

    Args:
        scratch: a folder for tables that do not fit into memory.
    """

    def __init__(self, scratch: Path) -> None:
        self._shelf = _Shelf(scratch)
        self._threads = min(usable_cpus(), _THREADS)

    def share(self, value: Any) -> Any:
        return value

    def run(
        self, task: Task, inputs: Iterable[tuple[Any, ...]], on_rows: OnRows = lambda rows: None
    ) -> Iterator[Result]:
        def call(step: _Step, arguments: tuple[Any, ...]) -> Result:
            blocks: list[Block] = []
            tables = task(*map(_loaded, arguments))
            while True:
                try:
                    table = next(tables)
                except StopIteration as end:
                    return Result(blocks, end.value)
                blocks.append(_Stored(self._shelf.put([table])))
                step.add(table.num_rows)

        return self._in_threads(call, inputs, on_rows)

    def shuffle(self, task: ShuffleTask, inputs: Iterable[tuple[Any, ...]], parts: int) -> list[Block]:
        def call(step: _Step, arguments: tuple[Any, ...]) -> list[tuple[int, _Piece]]:
            found: list[tuple[int, _Piece]] = []
            for part_E, table in task(*map(_loaded, arguments)):
                cut = _cut(part_E, table, parts)
                found += zip(cut, self._shelf.put(list(cut.values())), strict=True)
                step.add(table.num_rows)
            return found

        blocks = [_Stored([]) for _ in range(parts)]
        for found in self._in_threads(call, inputs, lambda rows: None):
            for part, piece in found:
                blocks[part].pieces.append(piece)
        return [block for block in blocks if block.pieces]

    def _in_threads(
        self, call: Callable[[_Step, tuple[Any, ...]], T], inputs: Iterable[tuple[Any, ...]], on_rows: OnRows
    ) -> Iterator[T]:
        """Call with each input, a few at a time, and yield the results in order."""
        step = _Step()
        running: deque[Future[T]] = deque()

        def next_result() -> T:
            first = running.popleft()
            while not first.done():
                on_rows(step.rows)
                wait([first], _SECONDS_BETWEEN_REPORTS)
            on_rows(step.rows)
            return first.result()

        with ThreadPoolExecutor(self._threads) as pool:
            try:
                for arguments in inputs:
                    running.append(pool.submit(call, step, arguments))
                    if len(running) > self._threads:
                        yield next_result()
                while running:
                    yield next_result()
            finally:
                step.is_over = True
                pool.shutdown(cancel_futures=True)
                pa.default_memory_pool().release_unused()  # numpy may need what Arrow has finished with


class _Step:
    """What the threads of one step tell and are told."""

    def __init__(self) -> None:
        self.rows = 0
        self.is_over = False
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        with self._lock:
            self.rows += rows
        if self.is_over:
            raise _OverError


class _OverError(Exception):
    """Ends a task whose result nobody waits for: another one has failed, or the program is interrupted."""


def _cut(part_E: np.ndarray, table: pa.Table, parts: int) -> dict[int, pa.Table]:
    """The rows of each part that has some, in order."""
    rows_P = np.bincount(part_E, minlength=parts)
    if parts == 1:
        return {0: table} if len(part_E) else {}
    order_P = np.split(stable_order(part_E), np.cumsum(rows_P)[:-1])
    # Each part has memory of its own, which goes when the part does.
    return {int(part): table.take(order_P[part]) for part in np.flatnonzero(rows_P)}


# Where the tables of a LocalDriver are.


@dataclass
class _Stored:
    """A block: a table in pieces."""

    pieces: list[_Piece]

    def read(self) -> pa.Table:
        return pa.concat_tables([piece.read() for piece in self.pieces])


def _loaded(argument: Any) -> Any:
    return argument.read() if isinstance(argument, _Stored) else argument


class _InMemory:
    """A table in memory."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def read(self) -> pa.Table:
        return self._table


@dataclass
class _OnDisk:
    """The table with this number of those in a file."""

    file: _File
    number: int

    def read(self) -> pa.Table:
        with pa.ipc.open_file(pa.memory_map(str(self.file.path))) as reader:
            return pa.Table.from_batches([reader.get_batch(self.number)])


_Piece = _InMemory | _OnDisk


class _File:
    """A file that goes when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        weakref.finalize(self, path.unlink, missing_ok=True)


class _Shelf:
    """Keeps tables in memory while there is room, and others in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes = self._files = 0
        self._lock = threading.Lock()

    def put(self, tables: list[pa.Table]) -> list[_Piece]:
        """Keep tables of one schema, none of them empty."""
        size = sum(table.nbytes for table in tables)
        with self._lock:
            fits = self._bytes + size <= _KEPT_BYTES
            self._bytes += size if fits else 0
            self._files += not fits
            path = self._folder / f"{self._files}.arrow"
        if fits:
            kept = [_InMemory(table) for table in tables]
            for piece, table in zip(kept, tables, strict=True):
                weakref.finalize(piece, self._release, table.nbytes)
            return list(kept)
        file = _File(path)
        with pa.ipc.new_file(str(path), tables[0].schema) as writer:
            for table in tables:
                writer.write_batch(table.combine_chunks().to_batches()[0])
        return [_OnDisk(file, number) for number in range(len(tables))]

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size
