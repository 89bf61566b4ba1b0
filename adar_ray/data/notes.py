"""What people should know about a dataset that `prepare` has made, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.features import FeatureTable
from adar_ray.data.manifest import Repeat, RowCounts
from adar_ray.data.sources import Source
from adar_ray.data.split import LEAVE_ONE_OUT_MINIMUM, SplitProtocol
from adar_ray.data.vocabulary import Vocabulary
from adar_ray.errors import counted, one_line

_SHOWN = 3


@dataclass(frozen=True)
class SplitFacts:
    """What a split has come to: interactions of each split, and who of test is not in training."""

    train: int
    valid: int
    test: int
    test_users: int
    cold_users: int
    test_items: int
    cold_items: int


def reading_notes(
    source: Source, empty: list[str], rows: RowCounts, split: SplitProtocol, repeat: Repeat
) -> list[str]:
    """Notes about what was read and what was not.

    Args:
        empty: files that turned out to have no content.
    """
    notes = []
    empty = [*source.empty, *empty]
    if source.left_out:
        notes.append(
            f"{counted(len(source.left_out), 'other file there was', 'other files there were')} not read "
            f"({_some(source.left_out)}): files of interactions have other names; a glob reads any file"
        )
    if empty:
        notes.append(f"{counted(len(empty), 'file is', 'files are')} empty ({_some(empty)})")
    if rows.bad:
        notes.append(f"{counted(rows.bad, 'bad row was', 'bad rows were')} skipped; see bad_rows.jsonl")
    if rows.repeated:
        kept = "their weights were added up" if repeat == "sum" else f"the {repeat} of each pair was kept"
        notes.append(
            f"{counted(rows.repeated, 'interaction repeats', 'interactions repeat')} a pair of user and "
            f"item; {kept} (--repeat keep keeps all)"
        )
    if rows.held_out_in_training:
        notes.append(
            f"training keeps {counted(rows.held_out_in_training, 'interaction')} that the source has in its "
            "test or validation as well"
        )
    if rows.valid_in_test:
        notes.append(
            f"test keeps {counted(rows.valid_in_test, 'interaction')} that the source has in its "
            "validation as well"
        )
    file = source.files[0]
    if split.protocol != "given" and any(file.split for file in source.files):
        notes.append("the source's own split was not used; --split given does")
    if not file.has_time and source.unused_times:
        notes.append(
            f"no column was taken for times, though {_some(source.unused_times)} may hold some; "
            f"--columns timestamp={source.unused_times[0]} uses them"
        )
    if not file.has_time and not file.format.in_time_order and split.protocol != "given":
        notes.append("without times, each user's interactions are in the order of the source")
    return notes


def split_notes(
    split: SplitProtocol, facts: SplitFacts, users: pa.Array, user_counts: np.ndarray
) -> list[str]:
    """Notes about the split.

    Args:
        users: keys of the users.
        user_counts: interactions of each user; 0 if dropped.
    """
    notes = []
    few = np.flatnonzero((user_counts > 0) & (user_counts < LEAVE_ONE_OUT_MINIMUM))
    if split.protocol == "leave-one-out" and len(few):
        notes.append(
            f"{counted(len(few), 'user has', 'users have')} fewer than {LEAVE_ONE_OUT_MINIMUM} interactions "
            f"(the first is {users[few[0]].as_py()!r}), which all stay in training; "
            f"--core {LEAVE_ONE_OUT_MINIMUM} drops such users"
        )
    if not facts.test:
        notes.append("test is empty, so nothing can be evaluated on it")
    asked = split.valid_fraction * (facts.train + facts.valid)
    if split.protocol != "leave-one-out" and asked >= 1 and facts.valid < asked / 2:
        notes.append(
            f"validation has {counted(facts.valid, 'interaction')}, though a share of "
            f"{split.valid_fraction:g} would be {asked:,.0f}: users have too few for it; "
            "raise --valid-fraction or --core"
        )
    for kind, there, cold in (
        ("users", facts.test_users, facts.cold_users),
        ("items", facts.test_items, facts.cold_items),
    ):
        if cold:
            notes.append(
                f"{cold:,} of {there:,} {kind} in test {'has' if cold == 1 else 'have'} no interaction in "
                f"training, and so no trained vector; figures on test include such {kind}"
            )
    return notes


def feature_notes(features: FeatureTable) -> list[str]:
    """Notes about the features of items."""
    name, table = features.path.rpartition("/")[2], features.features
    vocabulary = Vocabulary.of(table)
    held = [
        f"{column} (numbers)"
        if column in vocabulary.scales
        else f"{column} ({counted(len(vocabulary.categories[column]), 'category', 'categories')})"
        for column in table.column_names
    ]
    notes = [f"features of items in {name}: {', '.join(held)}", *features.notes()]
    if without := len(table) - pc.sum(features.has_some()).as_py():
        notes.append(f"{name} has no features for {without:,} of {counted(len(table), 'item')}")
    if features.strangers:
        notes.append(
            f"left out {counted(features.strangers, 'row')} of {name} whose item the dataset does not have"
        )
    return notes


def _some(names: list[str]) -> str:
    return one_line(", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else ""))
