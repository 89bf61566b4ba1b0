"""The source's ids of users and items, as callers give them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adar_ray.errors import AdarError

Id = str | bytes | int | float
Ids = Iterable[Id]


def is_one(ids: Any) -> bool:
    """Whether this is one id, rather than several: text, bytes, or a number of any library."""
    return isinstance(ids, Id) or getattr(ids, "ndim", None) == 0


def key_of(one: Any) -> str:
    """An id as `prepare` writes it: bytes as UTF-8, and a whole number without the `.0` of a float."""
    one = one.item() if hasattr(one, "item") else one
    if isinstance(one, bytes):
        return one.decode(errors="replace")
    return str(int(one)) if isinstance(one, float) and one.is_integer() else str(one)


def keys_of(kind: str, ids: Any) -> list[str]:
    """Several ids as `prepare` writes them.

    Args:
        kind: `user` or `item`, for messages.

    Raises:
        AdarError: it is one id, or nothing that holds some, or holds several where one should be.
    """
    if hasattr(ids, "columns"):  # iterating over a table of pandas yields the names of its columns
        raise AdarError(f"{type(ids).__name__}: is a table; give the column of {kind}s")
    if is_one(ids):
        raise AdarError(f"{ids!r}: is one {kind}; give a list of {kind}s")
    try:
        ids = [*ids]
        for one in ids:
            if isinstance(one, (list, tuple, set, dict)) or getattr(one, "ndim", None):
                raise AdarError(f"{one!r}: stands where one {kind} should be; give the id of one")
        return [key_of(one) for one in ids]
    except TypeError:
        raise AdarError(f"{type(ids).__name__}: is no list of {kind}s") from None
