"""A prepared dataset: shards, id maps and `dataset.json`.

Written by `prepare` and by `synthetic`, read by everything else; see docs/files.md.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adar_ray.data.lanes import lane_range
from adar_ray.data.manifest import (
    FEATURES,
    ITEMS,
    MANIFEST,
    SEQUENCES,
    SPLITS,
    TITLES,
    USERS,
    Lanes,
    Manifest,
    PreparedSource,
    Sequences,
    count_rows,
    kind_of,
    number_of,
)
from adar_ray.data.matrix import to_matrix
from adar_ray.data.vocabulary import Vocabulary
from adar_ray.documents import damaged
from adar_ray.errors import AdarError, counted, one_line
from adar_ray.interactions import PADDING
from adar_ray.limits import check_choice
from adar_ray.storage import FileEntry, Folder, describe_os_error

__all__ = ["MANIFEST", "SEQUENCES", "SHARD_SCHEMA", "SPLITS", "Dataset"]

SINCE = "since"  # a column of users.parquet in a copy without times: each user's first
CATEGORIES = pa.list_(pa.string())  # the type of a column of features.parquet that holds no numbers
_REMEDY = "restore it, or prepare again"
SHARD_SCHEMA = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])


@dataclass(frozen=True)
class Dataset:
    """An opened dataset. The manifest is in memory, the shards are not.

    Attributes:
        remedy: what to do if a file is damaged, for messages.
    """

    folder: Folder
    manifest: Manifest
    remedy: str = field(default=_REMEDY, compare=False)

    def __repr__(self) -> str:
        counts = self.manifest.counts
        return (
            f"Dataset({self.name}: {counted(counts.users, 'user')}, {counted(counts.items, 'item')}, "
            f"{counted(counts.interactions, 'interaction')}; {self.folder})"
        )

    @classmethod
    def open(cls, address: str | Path | Dataset, remedy: str = _REMEDY) -> Dataset:
        """Open a dataset and check that every file is there and has its size.

        Args:
            remedy: what to do if a file is missing or damaged, for messages.

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
            manifest = folder.read_record(MANIFEST, Manifest, remedy)
        except OSError as error:
            raise AdarError(f"{folder}: {describe_os_error(error)}") from error
        root = os.path.realpath(folder.path)
        for file in manifest.files:
            path = folder.join(file.name)
            if folder.is_local and not Path(os.path.realpath(path)).is_relative_to(root):
                raise AdarError(f"{path}: is a link out of the dataset; copy the file in its place")
            info = folder.filesystem.get_file_info(path)
            if not info.is_file:
                raise AdarError(f"{folder}/{file.name}: the file is missing; {remedy}")
            if info.size != file.bytes:
                raise AdarError(
                    f"{folder}/{file.name}: has {counted(info.size, 'byte')}, not {file.bytes:,}; {remedy}"
                )
        return cls(folder, manifest, remedy)

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
    def keeps_repeats(self) -> bool:
        """Whether a user may have several interactions with an item, as `prepare --repeat keep` has it."""
        source = self.manifest.source
        return isinstance(source, PreparedSource) and source.repeat == "keep"

    @property
    def has_times(self) -> bool:
        """Whether `timestamp` is a time, and not a position in the source."""
        source = self.manifest.source
        return isinstance(source, PreparedSource) and source.interactions_in_time_order == "timestamp"

    @property
    def has_features(self) -> bool:
        """Whether items have features, as `prepare --items` gives them."""
        return any(file.name == FEATURES for file in self.manifest.files)

    @property
    def sequences(self) -> Sequences:
        """The length, stride and number of the sequence rows."""
        return self.manifest.sequences

    @property
    def lanes(self) -> Lanes:
        """The lanes that users live in, and what each holds."""
        return self.manifest.lanes

    def lane_rows(self, kind: str) -> np.ndarray:
        """The number of rows of each lane, int64 `[L]`: of `train` or of `SEQUENCES`."""
        return np.array(getattr(self.lanes, kind), dtype=np.int64)

    def user_range(self, worker: int, workers: int) -> tuple[int, int]:
        """The first user that one of several workers owns, and the one after its last."""
        first, last = lane_range(worker, workers, len(self.lanes.users))
        return sum(self.lanes.users[:first]), sum(self.lanes.users[:last])

    @cached_property
    def checksum(self) -> str:
        """The checksum of the manifest, which holds the checksum of every file."""
        return hashlib.sha256(self.folder.read_bytes(MANIFEST)).hexdigest()

    def rows(self, split: str) -> int:
        """The number of interactions in one of `SPLITS`.

        Raises:
            AdarError: there is no such split.
        """
        check_choice("split", split, SPLITS)
        return count_rows(self.manifest.files, split)

    def shards(self, kind: str) -> list[FileEntry]:
        """The manifest's entries for the shards of a split or of `SEQUENCES`, in order.

        Raises:
            AdarError: there is no such kind.
        """
        check_choice("kind", kind, (*SPLITS, SEQUENCES))
        return [file for file in self.manifest.files if kind_of(file) == kind]

    def shards_of(self, kind: str, worker: int, workers: int) -> list[FileEntry]:
        """The entries of those shards of a kind that may hold users of one of several workers, in order."""
        first, last = lane_range(worker, workers, len(self.lanes.users))
        groups = self.lanes.groups
        size = len(self.lanes.users) // groups

        def meets(shard: FileEntry) -> bool:
            start = number_of(shard) % groups * size
            return start < last and first < start + size

        return [shard for shard in self.shards(kind) if meets(shard)]

    def read_file(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one file of the dataset and check its checksum and its number of rows."""
        entry = next(file for file in self.manifest.files if file.name == name)
        try:
            data = self.folder.read_bytes(name)
        except OSError as error:
            raise AdarError(f"{self.folder}/{name}: {describe_os_error(error)}") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self._damaged(name, "wrong checksum")
        try:
            file = pq.ParquetFile(io.BytesIO(data))
            if file.metadata.num_rows != entry.rows:
                raise self._damaged(name, f"{counted(file.metadata.num_rows, 'row')}, not {entry.rows:,}")
            return file.read(columns)
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(name, one_line(error, 120)) from error

    def _read_columns(self, name: str, types: Mapping[str, pa.DataType]) -> list[pa.ChunkedArray]:
        """Read columns of these types, which hold no nulls."""
        return self._columns_of(name, self.read_file(name, list(types)), types)

    def _columns_of(
        self, name: str, table: pa.Table, types: Mapping[str, pa.DataType]
    ) -> list[pa.ChunkedArray]:
        for column, kind in types.items():
            if table.schema.names.count(column) != 1 or table[column].type != kind:
                raise self._damaged(name, f"no column {column} of the type {kind}")
            if table[column].null_count:
                raise self._damaged(name, f"column {column} lacks values")
        return [table[column] for column in types]

    def _check_ids(self, name: str, ids: np.ndarray, lowest: int, count: int) -> None:
        if ids.size and not lowest <= ids.min() <= ids.max() < count:
            raise self._damaged(name, f"an id is not from 0 to {count - 1}")

    def _damaged(self, name: str, problem: str) -> AdarError:
        return damaged(f"{self.folder}/{name}", problem, self.remedy)

    def read_shard(
        self, shard: FileEntry, users: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the users and items of one shard of a split.

        Args:
            users: the first user to read and the one after the last; all by default.
        """
        columns = self._read_columns(shard.name, {"user": pa.int32(), "item": pa.int32()})
        user_E, item_E = (column.to_numpy() for column in columns)
        self._check_ids(shard.name, user_E, 0, self.n_users)
        self._check_ids(shard.name, item_E, 0, self.n_items)
        return _of_users(users, user_E, item_E)

    def read_weights(self, shard: FileEntry, users: tuple[int, int] | None = None) -> np.ndarray:
        """Read the weights `[E]` of the rows that `read_shard` reads, of a dataset that has weights."""
        columns = self._read_columns(shard.name, {"user": pa.int32(), "weight": pa.float32()})
        user_E, weight_E = (column.to_numpy() for column in columns)
        if not (np.isfinite(weight_E) & (weight_E > 0)).all():
            raise self._damaged(shard.name, "a weight is not positive")
        return _of_users(users, user_E, weight_E)[1]

    def read_sequences(
        self, shard: FileEntry, users: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the users `[R]` and items `[R, L + 1]` of one shard of sequence rows.

        Args:
            users: the first user to read and the one after the last; all by default.
        """
        rows = pa.list_(pa.int32(), self.sequences.length + 1)
        columns = self._read_columns(shard.name, {"user": pa.int32(), "items": rows})
        if pc.list_flatten(columns[1]).null_count:
            raise self._damaged(shard.name, "column items lacks values")
        user_R, item_RN = columns[0].to_numpy(), to_matrix(columns[1])
        self._check_ids(shard.name, user_R, 0, self.n_users)
        self._check_ids(shard.name, item_RN, PADDING, self.n_items)
        return _of_users(users, user_R, item_RN)

    def read_split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Read the users and items of a whole split into memory.

        Raises:
            AdarError: there is no such split, or a shard is damaged.
        """
        check_choice("split", split, SPLITS)
        shards = [self.read_shard(shard) for shard in self.shards(split)]
        if not shards:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        users, items = (np.concatenate(part) for part in zip(*shards, strict=True))
        return users, items

    def first_times(self) -> np.ndarray | None:
        """When each user's first interaction was, in nanoseconds since 1970, int64 `[U]`; None if that is not
        known."""
        if not self.has_times:
            return None
        users = self.read_file(USERS, [SINCE])
        if users.num_columns:
            return self._columns_of(USERS, users, {SINCE: pa.int64()})[0].to_numpy()
        first_U = np.full(self.n_users, np.iinfo(np.int64).max)
        types = {"user": pa.int32(), "timestamp": pa.int64()}
        for shard in (shard for split in SPLITS for shard in self.shards(split)):
            table = self.read_file(shard.name, list(types))
            if "timestamp" not in table.schema.names:  # a copy that an earlier version made
                return None
            columns = self._columns_of(shard.name, table, types)
            user_E, time_E = (column.to_numpy() for column in columns)
            self._check_ids(shard.name, user_E, 0, self.n_users)
            np.minimum.at(first_U, user_E, time_E)
        return first_U

    def user_keys(self) -> pa.ChunkedArray:
        """The source's own user ids, by dense id."""
        return self._read_columns(USERS, {"key": pa.string()})[0]

    def item_keys(self) -> pa.ChunkedArray:
        """The source's own item ids, by dense id."""
        return self._read_columns(ITEMS, {"key": pa.string()})[0]

    def item_titles(self) -> pa.Array | None:
        """The titles of items, by dense id, null where an item has none; None if no item has one."""
        if all(file.name != TITLES for file in self.manifest.files):
            return None
        columns = self._read_columns(TITLES, {"item": pa.int32(), "title": pa.string()})
        item_R, title_R = (column.combine_chunks() for column in columns)
        self._check_ids(TITLES, item_R.to_numpy(), 0, self.n_items)
        at_I = pc.index_in(pa.array(np.arange(self.n_items, dtype=np.int32)), value_set=item_R)
        return title_R.take(at_I)

    def item_features(self) -> pa.Table | None:
        """The features of items, by dense id: of each column texts, the item's categories, or a number; null
        where it has none. None if no item has any."""
        if not self.has_features:
            return None
        table = self.read_file(FEATURES).combine_chunks()
        (item_R,) = self._columns_of(FEATURES, table, {"item": pa.int32()})
        self._check_ids(FEATURES, item_R.to_numpy(), 0, self.n_items)
        features = table.drop_columns(["item"])
        for column in features.schema:
            if column.type not in (CATEGORIES, pa.float64()) or features.column_names.count(column.name) != 1:
                raise self._damaged(FEATURES, f"column {one_line(column.name, 60)} holds no features")
        at_I = pc.index_in(pa.array(np.arange(self.n_items, dtype=np.int32)), value_set=item_R)
        return features.take(at_I)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The features that items have, numbered; empty if no item has any."""
        features = self.item_features()
        return Vocabulary.of(pa.table({}) if features is None else features)


def _of_users(
    users: tuple[int, int] | None, user_R: np.ndarray, item_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a range of users, of rows that are sorted by user."""
    if users is None:
        return user_R, item_R
    first, last = np.searchsorted(user_R, users)
    return user_R[first:last], item_R[first:last]
