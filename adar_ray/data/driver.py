"""Running the steps of `prepare` and `synthesize`: on this machine's threads, or on a Ray cluster.

A step is a task for each of many inputs. A task is a generator: it yields tables, which stay where the tasks
run, and returns what it has found out, which comes here. The tables of one step are inputs of the next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Task = Callable[..., Generator[pa.Table, None, Any]]
"""Yields tables and returns what it has found out."""
ShuffleTask = Callable[..., Iterable[tuple[np.ndarray, pa.Table]]]
"""Yields tables, each with the number of the part that each row goes to."""
Block = Any
"""A table that is kept between steps; as an argument of a task it becomes the table."""
OnRows = Callable[[int], None]
"""Told the number of rows that a step has yielded so far."""


class Result(NamedTuple):
    """What one task came to."""

    blocks: list[Block]
    found: Any


class Driver(ABC):
    """Runs tasks. The results are the same whatever runs them."""

    @abstractmethod
    def share(self, value: Any) -> Any:
        """An argument that many tasks have in common; tasks get the value and must not change it."""

    @abstractmethod
    def run(
        self, task: Task, inputs: Iterable[tuple[Any, ...]], on_rows: OnRows = lambda rows: None
    ) -> Iterator[Result]:
        """Call the task with each of the inputs, which are its arguments; yield the results in order."""

    @abstractmethod
    def shuffle(self, task: ShuffleTask, inputs: Iterable[tuple[Any, ...]], parts: int) -> list[Block]:
        """Bring together what the tasks yield for each part.

        Every row is in a block with all others of its part, in the order in which the tasks yield them, one
        input after the other. A block may hold several parts, and has at least one row.
        """


def drained(blocks: list[Block]) -> Iterator[Block]:
    """Yield blocks that nobody needs afterwards, and forget each."""
    blocks.reverse()
    while blocks:
        yield blocks.pop()
