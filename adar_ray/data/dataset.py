"""A prepared dataset: shards, id maps and `dataset.json`.

Written by `prepare` and by `synthetic`, read by everything else; see docs/files.md.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from adar_ray.data.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    SEQUENCES,
    SPLITS,
    Manifest,
    Sequences,
    count_rows,
    kind_of,
)
from adar_ray.data.matrix import to_matrix
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import FileEntry, Folder, describe_os_error

__all__ = ["MANIFEST", "SEQUENCES", "SHARD_SCHEMA", "SPLITS", "Dataset"]

SHARD_SCHEMA = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. The manifest is in memory, the shards are not."""

    folder: Folder
    manifest: Manifest

    @classmethod
    def open(cls, address: str | Path | Dataset) -> Dataset:
        """Open a dataset and check that every file is there and has its size.

        Raises:
            AdarError: the folder is not a dataset, has another version, or lacks a shard.
        """
        if isinstance(address, Dataset):
            return address
        folder = Folder.at(address)
        try:
            if not folder.exists(MANIFEST):
                missing = f"there is no {MANIFEST} in it" if folder.exists() else "there is no such folder"
                raise AdarError(f"{folder}: is not a dataset ({missing}); make one with `adar-ray prepare`")
            content = folder.read_json(MANIFEST)
        except OSError as error:
            raise AdarError(f"{folder}: {describe_os_error(error)}") from error
        except ValueError as error:
            raise AdarError(f"{folder}/{MANIFEST}: is damaged ({one_line(error)}); prepare again") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise AdarError(
                f"{folder}/{MANIFEST}: schema version {version}, this program reads {SCHEMA_VERSION}; "
                "prepare again"
            )
        try:
            manifest = Manifest.model_validate(content)
        except ValidationError as error:
            raise AdarError(f"{folder}/{MANIFEST}: is damaged ({one_line(error)}); prepare again") from error
        for file in manifest.files:
            info = folder.filesystem.get_file_info(folder.join(file.name))
            if not info.is_file:
                raise AdarError(f"{folder}/{file.name}: the file is missing; prepare again")
            if info.size != file.bytes:
                raise AdarError(
                    f"{folder}/{file.name}: has {info.size} bytes, not {file.bytes}; prepare again"
                )
        return cls(folder, manifest)

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def n_users(self) -> int:
        return self.manifest.counts.users

    @property
    def n_items(self) -> int:
        return self.manifest.counts.items

    @property
    def sequences(self) -> Sequences:
        """The length, stride and number of the sequence rows."""
        return self.manifest.sequences

    @cached_property
    def checksum(self) -> str:
        """The checksum of the manifest, which holds the checksum of every file."""
        return hashlib.sha256(self.folder.read_bytes(MANIFEST)).hexdigest()

    def rows(self, split: str) -> int:
        """The number of interactions in one of `SPLITS`."""
        return count_rows(self.manifest.files, split)

    def shards(self, kind: str) -> list[FileEntry]:
        """The manifest's entries for the shards of a split or of `SEQUENCES`, in order."""
        return [file for file in self.manifest.files if kind_of(file) == kind]

    def read_file(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one file of the dataset and check its checksum."""
        entry = next(file for file in self.manifest.files if file.name == name)
        try:
            data = self.folder.read_bytes(name)
        except OSError as error:
            raise AdarError(f"{self.folder}/{name}: {describe_os_error(error)}") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise AdarError(f"{self.folder}/{name}: is damaged (wrong checksum); prepare again")
        return pq.read_table(io.BytesIO(data), columns=columns)

    def read_shard(self, split: str, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the users and items of one shard."""
        table = self.read_file(self.shards(split)[shard].name, ["user", "item"])
        return table["user"].to_numpy(), table["item"].to_numpy()

    def read_sequences(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Read the users `[R]` and items `[R, L + 1]` of one shard of sequence rows."""
        table = self.read_file(self.shards(SEQUENCES)[shard].name)
        return table["user"].to_numpy(), to_matrix(table["items"])

    def read_split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read the users and items of a whole split into memory."""
        shards = [self.read_shard(split, shard) for shard in range(len(self.shards(split)))]
        if not shards:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        users, items = (np.concatenate(part) for part in zip(*shards, strict=True))
        return users, items

    def user_keys(self) -> pa.ChunkedArray:
        """The source's own user ids, by dense id."""
        return self.read_file("users.parquet", ["key"])["key"]

    def item_keys(self) -> pa.ChunkedArray:
        """The source's own item ids, by dense id."""
        return self.read_file("items.parquet", ["key"])["key"]
