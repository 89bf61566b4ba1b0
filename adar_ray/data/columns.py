"""Which of a file's columns hold users, items, ratings, times and weights."""

from __future__ import annotations

import re

from adar_ray.errors import AdarError, one_line

# Column names that need no --columns, compared in lower case without separators; the first match wins.
_SEPARATORS = {"\t": r"\t", ";": ";", "|": "|", ",": ","}
"""Of fields, and as they are typed; in the order in which they are looked for."""
_USUAL_NAMES = {
    "user": ("userid", "user", "uid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "bookid", "artistid", "trackid", "songid"),
    "rating": ("rating",),
    "timestamp": ("timestamp", "time", "unixreviewtime"),
    "weight": (),  # only if asked for: it changes what training minimizes
}
_USUAL_TITLES = ("title", "movietitle", "name", "itemname")
_LIKE_A_TIME = re.compile(r"time|date|(^|[^a-z])(ts|when)($|[^a-z])|created|(^|[^a-z])day($|[^a-z])")


def match_columns(
    path: str,
    names: list[str],
    given: dict[str, str] | None,
    *,
    has_numbers: bool = False,
    has_header: bool = True,
) -> dict[str, str]:
    """Map each canonical column to a column of the file: the given ones, and the usual names for the rest.

    Args:
        given: the file's own names, where they are unusual; an empty name leaves a column out.
        has_numbers: whether `names` are numbers because the file names no columns.
        has_header: whether the names are those of a line that might have been data.

    Raises:
        AdarError: `given` has an unknown key, or a column is missing, appears twice, or is to be two things.
    """
    given = given or {}
    for key, name in given.items():
        if key not in _USUAL_NAMES:
            raise AdarError(f"--columns: unknown key {key!r}; the keys are {', '.join(_USUAL_NAMES)}")
        if not name and key in ("user", "item"):
            raise AdarError(f"--columns: {key}= is empty; name the column of the {key}s")
    columns = _find(names, given)
    for key in ("user", "item"):
        if key not in columns:
            there = one_line(", ".join(names))
            remedy = "name it, for example --columns user=reviewerID,item=asin,timestamp=unixReviewTime"
            if has_numbers:
                remedy = "give its number, for example --columns user=1,item=2,timestamp=3"
            elif len(names) == 1:
                remedy = _separator_remedy(names[0])
            elif has_header:
                remedy += ", or pass --header none if the first line is data"
            raise AdarError(f"{path}: no column for the {key} among {there}; {remedy}")
    check_columns(path, names, columns)
    for key in ("user", "item"):
        for other, name in columns.items():
            if other != key and name == columns[key]:
                raise AdarError(f"{path}: column {name!r} cannot be both {key} and {other}; see --columns")
    return columns


def _separator_remedy(line: str) -> str:
    """What to do about a header that is a single field."""
    found = next((shown for mark, shown in _SEPARATORS.items() if mark in line), None)
    return f"pass --separator '{found}'" if found else "pass the --separator of its fields"


def looks_named(names: list[str], given: dict[str, str]) -> bool:
    """Whether these are names of columns that include one for users and one for items."""
    columns = _find(names, given)
    return all(columns.get(key) in names for key in ("user", "item"))


def unused_times(names: list[str], columns: dict[str, str]) -> list[str]:
    """Columns that nothing reads although they are called like a time."""
    return [name for name in names if name not in columns.values() and _LIKE_A_TIME.search(name.lower())]


def title_columns(names: list[str], item: str) -> dict[str, str] | None:
    """The columns of items and titles in a file that names items; None if it lacks one.

    Args:
        item: what the interactions call the item.
    """
    key, title = item_column(names, item), title_column(names)
    return {"item": key, "title": title} if key and title else None


def item_column(names: list[str], item: str) -> str | None:
    """The column of items' ids in a file about items, which the interactions call `item`; None if none is."""
    return item if item in names else _find(names, {}).get("item")


def title_column(names: list[str]) -> str | None:
    """The column of titles in a file about items; None if it has none."""
    plain = _plain(names)
    return next((plain[usual] for usual in _USUAL_TITLES if usual in plain), None)


def _plain(names: list[str]) -> dict[str, str]:
    return {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(names)}


def _find(names: list[str], given: dict[str, str]) -> dict[str, str]:
    plain = _plain(names)
    columns = {}
    for key, choices in _USUAL_NAMES.items():
        usual = next((plain[choice] for choice in choices if choice in plain), None)
        name = given.get(key, usual)
        if name:
            columns[key] = name
    return columns


def check_columns(path: str, names: list[str], columns: dict[str, str]) -> None:
    """Raise AdarError unless the file has each of the columns exactly once."""
    for name in columns.values():
        if names.count(name) != 1:
            problem = f"column {name!r} appears twice" if name in names else f"there is no column {name!r}"
            raise AdarError(f"{path}: {problem}; its columns are {one_line(', '.join(names))}; see --columns")
