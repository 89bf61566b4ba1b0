"""A prepared dataset: shards, id maps and `dataset.json`.

Written by `prepare` and by `synthetic`, read by everything else; see docs/files.md.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adar_ray.data.matrix import to_matrix
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import Folder, describe_os_error

SCHEMA_VERSION = 2
MANIFEST = "dataset.json"
SPLITS = ("train", "valid", "test")
SEQUENCES = "sequences"
SHARD_SCHEMA = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. The manifest is in memory, the shards are not."""

    folder: Folder
    manifest: dict[str, Any]

    @classmethod
    def open(cls, address: str | Path | Dataset) -> Dataset:
        """Opens a dataset and checks that every file is there, whole.

        Raises:
            AdarError: the folder is no dataset, of another version, or misses a shard.
        """
        if isinstance(address, Dataset):
            return address
        folder = Folder.at(address)
        try:
            if not folder.exists(MANIFEST):
                missing = (
                    "there is no such folder" if not folder.exists() else f"there is no {MANIFEST} in it"
                )
                raise AdarError(f"{folder}: is no dataset ({missing}); make one with `adar-ray prepare`")
            manifest = folder.read_json(MANIFEST)
        except OSError as error:
            raise AdarError(f"{folder}: {describe_os_error(error)}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise AdarError(f"{folder}/{MANIFEST}: is damaged ({one_line(error)}); prepare again") from error
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise AdarError(
                f"{folder}/{MANIFEST}: schema version {version}, this program reads {SCHEMA_VERSION}; "
                "prepare again"
            )
        dataset = cls(folder, manifest)
        for file in manifest["files"]:
            info = folder.filesystem.get_file_info(folder.join(file["name"]))
            if not info.is_file:
                raise AdarError(f"{folder}/{file['name']}: the file is missing; prepare again")
            if info.size != file["bytes"]:
                raise AdarError(
                    f"{folder}/{file['name']}: has {info.size} bytes, not {file['bytes']}; prepare again"
                )
        return dataset

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def n_users(self) -> int:
        return self.manifest["counts"]["users"]

    @property
    def n_items(self) -> int:
        return self.manifest["counts"]["items"]

    @property
    def sequences(self) -> dict[str, int]:
        """Of the sequence rows: `length` L and `stride` (see `data.sequences`), and how many `rows`."""
        return self.manifest["sequences"]

    @cached_property
    def checksum(self) -> str:
        """Of the manifest, which holds the checksum of every file."""
        return hashlib.sha256(self.folder.read_bytes(MANIFEST)).hexdigest()

    def rows(self, split: str) -> int:
        return self.manifest["counts"][split]

    def shards(self, kind: str) -> list[dict[str, Any]]:
        """The manifest's entries of the shards of a split or of `SEQUENCES`, in order."""
        return [file for file in self.manifest["files"] if file["name"].startswith(f"{kind}/")]

    def read_file(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """One file of the dataset, checked against its checksum."""
        entry = next(file for file in self.manifest["files"] if file["name"] == name)
        try:
            data = self.folder.read_bytes(name)
        except OSError as error:
            raise AdarError(f"{self.folder}/{name}: {describe_os_error(error)}") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise AdarError(f"{self.folder}/{name}: is damaged (wrong checksum); prepare again")
        return pq.read_table(io.BytesIO(data), columns=columns)

    def read_shard(self, split: str, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of one shard."""
        table = self.read_file(self.shards(split)[shard]["name"], ["user", "item"])
        return table["user"].to_numpy(), table["item"].to_numpy()

    def read_sequences(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Users `[R]` and items `[R, L + 1]` of one shard of sequence rows."""
        table = self.read_file(self.shards(SEQUENCES)[shard]["name"])
        return table["user"].to_numpy(), to_matrix(table["items"])

    def read_split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of a whole split, in memory."""
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
