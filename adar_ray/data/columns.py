"""Which of a file's columns hold users, items, ratings and times."""

from __future__ import annotations

import re

from adar_ray.errors import AdarError, one_line

# Column names that need no --columns, compared in lower case without separators; the first match wins.
_USUAL_NAMES = {
    "user": ("userid", "user", "uid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "bookid", "artistid", "trackid", "songid"),
    "rating": ("rating",),
    "timestamp": ("timestamp", "time", "unixreviewtime"),
}


def match_columns(path: str, names: list[str], given: dict[str, str] | None) -> dict[str, str]:
    """Map each canonical column to a column of the file: the given ones, and the usual names for the rest.

    Raises:
        AdarError: `given` has an unknown key, or a column is missing or appears twice.
    """
    given = given or {}
    for key in given:
        if key not in _USUAL_NAMES:
            raise AdarError(f"--columns: unknown key {key!r}; the keys are {', '.join(_USUAL_NAMES)}")
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(names)}
    columns = {}
    for key, choices in _USUAL_NAMES.items():
        name = given.get(key) or next((plain[choice] for choice in choices if choice in plain), None)
        if name is not None:
            columns[key] = name
    for key in ("user", "item"):
        if key not in columns:
            there = one_line(", ".join(names))
            remedy = "name it, for example --columns user=reviewerID,item=asin,timestamp=unixReviewTime"
            raise AdarError(f"{path}: no column for the {key} among {there}; {remedy}")
    check_columns(path, names, columns)
    return columns


def check_columns(path: str, names: list[str], columns: dict[str, str]) -> None:
    """Raise AdarError unless the file has each of the columns exactly once."""
    for name in columns.values():
        if names.count(name) != 1:
            problem = f"column {name!r} appears twice" if name in names else f"there is no column {name!r}"
            raise AdarError(f"{path}: {problem}; its columns are {one_line(', '.join(names))}; see --columns")
