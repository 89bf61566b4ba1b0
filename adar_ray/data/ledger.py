"""What the tasks of a Ray Data plan find out besides rows, brought to the driver.

A task may run twice, so entries have keys: what is entered again replaces itself.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import ray

T = TypeVar("T")


class Ledger(Generic[T]):
    """Entries by key, which tasks on any machine write. Travels to them."""

    def __init__(self) -> None:
        self._book: Any = ray.remote(num_cpus=0)(_Book).remote()

    def enter(self, key: int, entry: T) -> None:
        """Write an entry, from a task."""
        ray.get(self._book.enter.remote(key, entry))

    def entries(self) -> list[T]:
        """All entries, in order of their keys."""
        book = ray.get(self._book.read.remote())
        return [book[key] for key in sorted(book)]


class _Book:
    """The actor that holds the entries."""

    def __init__(self) -> None:
        self.entries: dict[int, object] = {}

    def enter(self, key: int, entry: object) -> None:
        self.entries[key] = entry

    def read(self) -> dict[int, object]:
        return self.entries
