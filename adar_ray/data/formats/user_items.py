"""Lines of numbers without delimiter or header: `user item item ...` (LightGCN), and `user item` (SASRec).

A file of two numbers per line could be either; what tells them apart is whether users repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.files import lines_of
from adar_ray.data.formats.base import Batch, Format, Match
from adar_ray.data.formats.delimited import Delimited, split_words
from adar_ray.data.given_split import split_in


class UserItems(Format):
    """A line for each user: the user, then the user's items, separated by white space."""

    def column_names(self, path: str) -> list[str]:
        return ["user", "item"]

    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        for lines, numbers in lines_of(path, block_bytes, self.encoding, bad):
            fields = split_words(lines)
            counts = pc.list_value_length(fields).to_numpy()
            words = fields.flatten()
            is_item = np.ones(len(words), dtype=bool)
            is_item[np.cumsum(counts) - counts] = False  # the first of each line is its user
            line = np.repeat(np.arange(len(counts)), counts - 1)
            yield (
                {"user": pc.list_element(fields, 0).take(line), "item": words.filter(is_item)},
                numbers[line],
            )

    def recognize(self, name: str, lines: list[str]) -> Match:
        if not _are_numbers(lines) or (_repeat_users(lines) and not _are_pairs(lines)):
            return Match.NO
        if _are_pairs(lines):
            return _user_per_line(name, lines)
        # Lines of three or four numbers each may also be a user, an item, a rating and a time.
        lengths = {len(line.split()) for line in lines}
        return Match.CERTAIN if len(lengths) > 1 or split_in(name) else Match.POSSIBLE


class Pairs(Delimited):
    """A line for each interaction: `user item`."""

    def recognize(self, name: str, lines: list[str]) -> Match:
        if not (_are_numbers(lines) and _are_pairs(lines)):
            return Match.NO
        opposite = {Match.CERTAIN: Match.NO, Match.NO: Match.CERTAIN, Match.POSSIBLE: Match.POSSIBLE}
        return opposite[_user_per_line(name, lines)]


def _are_numbers(lines: list[str]) -> bool:
    return all(re.fullmatch(r"\s*\d+(\s+\d+)*\s*", line) for line in lines)


def _are_pairs(lines: list[str]) -> bool:
    return all(len(line.split()) == 2 for line in lines)


def _repeat_users(lines: list[str]) -> bool:
    users = [line.split()[0] for line in lines]
    return len(set(users)) < len(users)


def _user_per_line(name: str, lines: list[str]) -> Match:
    """Whether lines of two numbers have one line for each user.

    Such a file names no user twice and is usually called after a split. A file of pairs repeats a user as
    soon as one has a second item. If name and users disagree, it could be either.
    """
    no_user_repeats = not _repeat_users(lines)
    if no_user_repeats != (split_in(name) is not None):
        return Match.POSSIBLE
    return Match.CERTAIN if no_user_repeats else Match.NO


USER_ITEMS = UserItems(
    name="user-items",
    description="LightGCN, train.txt and test.txt: one line per user, `user item item ...`",
    other_names=("train*.txt", "valid*.txt", "test*.txt"),
    stands_out=True,
)
PAIRS = Pairs(
    name="pairs",
    description="SASRec: one line an interaction, `user item`, each user's in time order",
    delimiter=None,
    columns=("user", "item"),
    in_time_order=True,
)
