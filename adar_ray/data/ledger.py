"""What the tasks of a Ray Data plan find out besides rows, brought to the driver.

Entries are small files, because an actor takes seconds to start. A task may run twice, so entries have keys:
what is entered again replaces itself.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import pyarrow.fs as pafs
from pydantic import TypeAdapter

from adar_ray.storage import Folder

T = TypeVar("T")


class Ledger(Generic[T]):
    """Entries by key, which tasks on any machine write. Travels to them.

    Args:
        folder: where the entries are until they are taken; it must not exist.
        kind: a dataclass, the type of the entries.
    """

    def __init__(self, folder: Folder, kind: type[T]) -> None:
        self._folder, self._kind = folder, kind

    def enter(self, key: int, entry: T) -> None:
        """Write an entry, from a task."""
        self._folder.write_bytes(f"{key:08d}.json", TypeAdapter(self._kind).dump_json(entry))

    def take(self) -> list[T]:
        """All entries, in order of their keys. Nothing is left of the ledger."""
        files = self._folder.filesystem.get_file_info(
            pafs.FileSelector(self._folder.path, allow_not_found=True)
        )
        names = sorted(file.base_name for file in files)
        kind = TypeAdapter(self._kind)
        entries = [kind.validate_json(self._folder.read_bytes(name)) for name in names]
        self._folder.remove()
        return entries
