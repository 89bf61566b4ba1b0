"""The manifest of a dataset, `dataset.json`, as typed records. The fields are the keys of the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from adar_ray.storage import FileEntry

SCHEMA_VERSION = 3
MANIFEST = "dataset.json"
BAD_ROWS = "bad_rows.jsonl"
SPLITS = ("train", "valid", "test")
SEQUENCES = "sequences"

Protocol = Literal["leave-one-out", "ratio", "temporal", "given"]
"""How a dataset was split; see `split.SplitProtocol`."""


Repeat = Literal["first", "last", "keep"]
"""What becomes of a user's repeated interactions with an item."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def __getitem__(self, key: str) -> Any:
        """A value by its key in the file, as the parsed file would give it."""
        return self.model_dump()[key]


class RowCounts(_Record):
    """What became of the source's rows: `read` is the sum of all the others.

    Attributes:
        bad: could not be read, and were skipped.
        repeated: of a pair that was there before.
        held_out_in_training: of the source's own test or validation, and in its training as well.
        low_rating: below the lowest rating.
        few_interactions: of users or items with too few of them.
        kept: became interactions of the dataset.
    """

    read: int
    bad: int
    repeated: int
    held_out_in_training: int
    low_rating: int
    few_interactions: int
    kept: int


class PreparedSource(_Record):
    """Where the interactions of a prepared dataset came from, and how they were filtered.

    `columns` are the source's own names. `interactions_in_time_order` names what orders a user's
    interactions: `timestamp`, or `position in the source` if the source has no times.
    """

    address: str
    format: str
    files: int
    columns: dict[str, str]
    rows: RowCounts
    repeat: Repeat
    interactions_in_time_order: str
    min_rating: int | float | None  # an int stays an int in the file
    core: int


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
    test_fraction: float | None = None
    valid_fraction: float | None = None
    seed: int | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if value is not None}


class Counts(_Record):
    """Numbers of users, items and interactions: all interactions, and those of each split."""

    users: int
    items: int
    interactions: int
    train: int
    valid: int
    test: int


class Sequences(_Record):
    """The sequence rows: `length` L and `stride` (see `sequences.Windows`), and the number of `rows`."""

    length: int
    stride: int
    rows: int


class Manifest(_Record):
    """Everything that `dataset.json` says about a dataset."""

    schema_version: int = SCHEMA_VERSION
    name: str
    source: PreparedSource | SyntheticSource
    split: SplitRecord
    counts: Counts
    sequences: Sequences
    notes: list[str]
    files: list[FileEntry]


def kind_of(file: FileEntry) -> str:
    """The folder of a shard: one of `SPLITS`, or `SEQUENCES`."""
    return file.name.partition("/")[0]


def count_rows(shards: Iterable[FileEntry], *kinds: str) -> int:
    """The number of rows in the shards of these kinds."""
    return sum(file.rows for file in shards if kind_of(file) in kinds)
