"""The manifest of a dataset, `dataset.json`, as typed records. The fields are the keys of the file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from adar_ray.errors import one_line
from adar_ray.limits import LONGEST_HISTORY
from adar_ray.outputs import Kind
from adar_ray.storage import FileEntry

SCHEMA_VERSION = 4
MANIFEST = "dataset.json"
BAD_ROWS = "bad_rows.jsonl"
SPLITS = ("train", "valid", "test")
SEQUENCES = "sequences"
USERS, ITEMS, TITLES = "users.parquet", "items.parquet", "titles.parquet"
FEATURES = "features.parquet"
TRUTH = "truth"
KIND = Kind(MANIFEST, (*SPLITS, SEQUENCES, USERS, ITEMS, TITLES, FEATURES, BAD_ROWS, TRUTH))
_SHARD = re.compile(rf"({'|'.join((*SPLITS, SEQUENCES))})/(\d{{5,10}})\.parquet")

Protocol = Literal["leave-one-out", "ratio", "temporal", "given"]
"""How a dataset was split; see `split.SplitProtocol`."""


Repeat = Literal["first", "last", "keep", "sum"]
"""What becomes of a user's repeated interactions with an item."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RowCounts(_Record):
    """What became of the source's rows: `read` is the sum of all the others.

    Attributes:
        bad: could not be read, and were skipped.
        repeated: of a pair that was there before.
        held_out_in_training: of the source's own test or validation, and in its training as well.
        valid_in_test: of its validation, and in its test as well.
        low_rating: below the lowest rating.
        few_interactions: of users or items with too few of them.
        kept: became interactions of the dataset.
    """

    read: NonNegativeInt
    bad: NonNegativeInt
    repeated: NonNegativeInt
    held_out_in_training: NonNegativeInt
    valid_in_test: NonNegativeInt = 0  # earlier versions did not count them
    low_rating: NonNegativeInt
    few_interactions: NonNegativeInt
    kept: NonNegativeInt


class PreparedSource(_Record):
    """Where the interactions of a prepared dataset came from, and how they were filtered.

    `columns` are the source's own names. `interactions_in_time_order` names what orders a user's
    interactions: `timestamp`, or `position in the source` if the source has no times.
    """

    address: str
    format: str
    files: NonNegativeInt
    columns: dict[str, str]
    rows: RowCounts
    repeat: Repeat
    interactions_in_time_order: str
    min_rating: int | float | None  # an int stays an int in the file
    core: NonNegativeInt


class SyntheticSettings(_Record):
    """The arguments of `synthesize`."""

    users: int
    items: int
    interactions: int
    seed: int


class SyntheticSource(_Record):
    """The source of a synthetic dataset."""

    synthetic: SyntheticSettings


class SplitRecord(_Record):
    """A split protocol, with only the settings that the protocol uses; the file leaves out the others."""

    protocol: Protocol
    test_fraction: float | None = Field(None, ge=0, lt=1)
    valid_fraction: float | None = Field(None, ge=0, lt=1)
    seed: int | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}


class Counts(_Record):
    """Numbers of users, items and interactions: all interactions, and those of each split."""

    users: int = Field(ge=0, lt=2**31)  # an id is an int32
    items: int = Field(ge=0, lt=2**31)
    interactions: NonNegativeInt
    train: NonNegativeInt
    valid: NonNegativeInt
    test: NonNegativeInt


class Sequences(_Record):
    """The sequence rows: `length` L and `stride` (see `sequences.Windows`), and the number of `rows`."""

    length: int = Field(ge=1, le=LONGEST_HISTORY)
    stride: int = Field(ge=1, le=LONGEST_HISTORY)
    rows: NonNegativeInt


class Lanes(_Record):
    """The lanes that users live in (see `lanes`): `groups` of shards, and what each of the L lanes holds.

    Attributes:
        groups: shard s holds users of the group s % `groups`, which is as many neighboring lanes as others.
        users, train, sequences: numbers of users, of training interactions and of sequence rows.
    """

    groups: PositiveInt
    users: list[NonNegativeInt]
    train: list[NonNegativeInt]
    sequences: list[NonNegativeInt]

    @model_validator(mode="after")
    def _are_as_many_of_each(self) -> Lanes:
        lanes = len(self.users)
        if lanes.bit_count() != 1:
            raise ValueError(f"{lanes} lanes are not a power of two")
        if not lanes == len(self.train) == len(self.sequences):
            raise ValueError("users, train and sequences have different numbers of lanes")
        if self.groups > lanes or self.groups.bit_count() != 1:
            raise ValueError(f"{lanes} lanes cannot form {self.groups} groups")
        return self


class Manifest(_Record):
    """Everything that `dataset.json` says about a dataset. Its counts are those of its files.

    Attributes:
        mean_weight: of the training interactions; None, and left out of the file, if none has a weight.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    source: PreparedSource | SyntheticSource
    split: SplitRecord
    counts: Counts
    sequences: Sequences
    lanes: Lanes
    mean_weight: float | None = Field(None, gt=0)
    notes: list[str]
    files: list[FileEntry]

    @model_serializer(mode="wrap")
    def _without_no_weight(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        if self.mean_weight is None:
            del content["mean_weight"]
        return content

    @field_validator("schema_version")
    @classmethod
    def _is_ours(cls, version: int) -> int:
        if version != SCHEMA_VERSION:
            raise ValueError(f"this program reads {SCHEMA_VERSION}")
        return version

    @model_validator(mode="after")
    def _counts_are_those_of_the_files(self) -> Manifest:
        counts = self.counts
        rows = {file.name: file.rows for file in self.files}
        if len(rows) < len(self.files):
            raise ValueError("a file is listed twice")
        for name in (USERS, ITEMS):
            if name not in rows:
                raise ValueError(f"{name} is not among the files")
        for name in rows.keys() - {USERS, ITEMS, TITLES, FEATURES}:
            if not _SHARD.fullmatch(name):
                raise ValueError(f"{one_line(name, 60)!r} is not the name of a shard")
        of_files = {
            "users": rows[USERS],
            "items": rows[ITEMS],
            "interactions": count_rows(self.files, *SPLITS),
            **{split: count_rows(self.files, split) for split in SPLITS},
        }
        for what, found in of_files.items():
            if getattr(counts, what) != found:
                raise ValueError(f"counts.{what} is {getattr(counts, what)}, but the files hold {found}")
        if self.sequences.rows != (found := count_rows(self.files, SEQUENCES)):
            raise ValueError(f"sequences.rows is {self.sequences.rows}, but the files hold {found}")
        for what, total in (
            ("users", counts.users),
            ("train", counts.train),
            ("sequences", self.sequences.rows),
        ):
            if (found := sum(getattr(self.lanes, what))) != total:
                raise ValueError(f"lanes.{what} holds {found} in all, but there are {total}")
        return self


def kind_of(file: FileEntry) -> str:
    """The folder of a shard: one of `SPLITS`, or `SEQUENCES`."""
    return file.name.partition("/")[0]


def number_of(shard: FileEntry) -> int:
    """The number of a shard, the same for the files of all kinds that it consists of."""
    found = _SHARD.fullmatch(shard.name)
    assert found is not None  # the manifest is checked
    return int(found[2])


def count_rows(shards: Iterable[FileEntry], *kinds: str) -> int:
    """The number of rows in the shards of these kinds."""
    return sum(file.rows for file in shards if kind_of(file) in kinds)
