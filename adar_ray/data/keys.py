"""The ids of a source, which may be written in several ways."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.errors import AdarError

_WHOLE = r"^[+-]?\d+$"
_WHOLE_FLOAT = r"^([+-]?\d+)\.0*$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def sorted_keys(keys: pa.Array) -> pa.Array:
    """Shorter keys first, then alphabetical: whole numbers come out in numerical order."""
    table = pa.table({"length": pc.binary_length(keys), "key": keys})
    return table.sort_by([("length", "ascending"), ("key", "ascending")])["key"].combine_chunks()


def unify_numbers(kind: str, keys: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Make `12.0` the same key as `12`, where all keys are whole numbers.

    pandas writes a column of whole numbers as floats if a value is missing, in one file and not in the next.

    Args:
        kind: `user` or `item`, for messages.
        keys: all different keys of the source.

    Returns:
        The keys, sorted, and the position among them of each of the given ones.

    Raises:
        AdarError: all keys are numbers, but not all of them whole.
    """
    is_float = pc.match_substring_regex(keys, r"[.eE]")
    if pc.any(is_float).as_py() and pc.all(pc.match_substring_regex(keys, _NUMBER)).as_py():
        is_whole = pc.or_(
            pc.match_substring_regex(keys, _WHOLE), pc.match_substring_regex(keys, _WHOLE_FLOAT)
        )
        if not pc.all(is_whole).as_py():
            example = keys.filter(pc.invert(is_whole))[0].as_py()
            raise AdarError(
                f"the {kind} {example!r} is not a whole number, though all {kind}s are numbers: "
                "has a program made floats of the ids? Correct the column, or name another with --columns"
            )
        written = pc.replace_substring_regex(keys, _WHOLE_FLOAT, r"\1")
    else:
        written = keys
    unified = sorted_keys(written.unique())
    return unified, pc.index_in(written, value_set=unified).to_numpy(zero_copy_only=False)
