"""The split that a source's own file names tell: `train.csv`, `ml.valid.inter`, `test/0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adar_ray.errors import AdarError

_WORDS = {
    "train": ("train", "training", "trainset", "trn"),
    "valid": ("valid", "validation", "validset", "val", "dev", "eval"),
    "test": ("test", "testing", "testset", "tst"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}


def split_in(name: str) -> str | None:
    """The split that a name tells with a word of its own, if it is one."""
    found = _splits_in(name)
    return found.pop() if len(found) == 1 else None


def given_splits(names: Sequence[str]) -> list[str | None]:
    """The split of each file of a source, or None for each if the names tell of no split.

    Args:
        names: paths within the source, in lower case.

    Raises:
        AdarError: a name tells of two splits.
    """
    splits = [_split_of(name, names) for name in names]
    return splits if len({split for split in splits if split}) > 1 else [None] * len(names)


def _split_of(name: str, names: Sequence[str]) -> str | None:
    found = _splits_in(name) or {
        # No word of its own, but a sibling: ratingstrain.csv beside ratingstest.csv.
        split
        for word, split in _SPLIT_OF.items()
        for other, other_split in _SPLIT_OF.items()
        if word in name and other_split != split and name.replace(word, other) in names
    }
    if len(found) > 1:
        raise AdarError(
            f"{name}: its name tells of {' and '.join(sorted(found))}; rename it, or name single files"
        )
    return next(iter(found), None)


def _splits_in(name: str) -> set[str]:
    return {_SPLIT_OF[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLIT_OF}
