"""The largest numbers that commands and functions take: far above any honest use, far below what breaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from adar_ray.errors import AdarError

MOST_IDS = 2**31 - 1  # an id is an int32
MOST_ROWS = 10**12
LARGEST_SEED = 2**31 - 1
LARGEST_K = 999_999
LARGEST_RATING = 1e15
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-6, 1e6
LONGEST_HISTORY = 65_536
MOST_WORKERS = 100_000
MOST_TRIALS = 1_000_000
MOST_VERSIONS = 9_999  # of a published model, each a copy
MOST_ASKED = 1_000  # users or items, in a request to a server
LONGEST_LIST = 10_000  # of ids, in such a request
MOST_BODY = 16 << 20  # bytes of such a request
MOST_REPEATS = 1_000  # of something that fails, or for another seed


def check_number(flag: str, value: float, low: float, high: float, *, whole: bool = True) -> None:
    """Refuse a number outside `low` to `high`, both included, or one that is not a number.

    Args:
        whole: whether it has to be a whole number.

    Raises:
        AdarError: names the flag and what it takes.
    """
    if not isinstance(value, Real):
        raise AdarError(f"{flag} {value!r}: give a number")
    if not low <= value <= high:
        raise AdarError(f"{flag} {value}: give {low:,} to {high:,}")
    if isinstance(value, bool) or (whole and not isinstance(value, Integral)):
        raise AdarError(f"{flag} {value}: give a {'whole ' if whole else ''}number")


def check_choice(flag: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        AdarError: names the flag and the choices.
    """
    if value not in (known := [*choices]):
        raise AdarError(f"{flag} {value!r}: give one of {', '.join(known)}")


def check_mapping(flag: str, value: Any, example: Mapping[str, str]) -> None:
    """Refuse what is not a mapping.

    Raises:
        AdarError: names the argument and shows the example.
    """
    if not isinstance(value, Mapping):
        raise AdarError(f"{flag} {value!r}: give a mapping, such as {example}")


def check_functions(**functions: Any) -> None:
    """Refuse arguments that cannot be called.

    Raises:
        AdarError: names the argument.
    """
    for name, function in functions.items():
        if not callable(function):
            raise AdarError(f"{name} {function!r}: give a function")


def check_list(flag: str, values: Any) -> None:
    """Refuse what is one value, such as a text, of which Python would take each letter.

    Raises:
        AdarError: names the argument.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise AdarError(f"{flag} {values!r}: give a list, such as [{values!r}]")
