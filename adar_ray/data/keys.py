"""The ids of a source, which may be written in several ways.

Legend: K ids of one block of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adar_ray.data.values import NUMBER
from adar_ray.errors import AdarError

_PENDING = 1 << 22  # ids that may wait, so that those known before are not looked at for every block
_WHOLE = r"^[+-]?\d+$"
_WHOLE_FLOAT = r"^([+-]?\d+)\.0*$"

UNKNOWN = -1
"""Takes the place of a key's number where there is none."""


@dataclass(frozen=True)
class Keys:
    """The ids of users or items, without different spellings.

    Attributes:
        keys: sorted; a key's position is its preliminary id.
        positions: the preliminary ids of the ids of each block, `[K]` each.
    """

    keys: pa.Array
    positions: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.keys)


class KeyTable:
    """Collects the ids of all blocks, which have many in common.

    Args:
        kind: `user` or `item`, for messages.
        path: of the source, for messages.
    """

    def __init__(self, kind: str, path: str) -> None:
        self._kind, self._path = kind, path
        self._known = pa.array([], pa.string())
        self._pending: list[pa.Array] = []
        self._codes: list[np.ndarray] = []

    def add(self, keys: pa.Array) -> None:
        """Add the different ids of the next block."""
        self._pending.append(keys)
        if sum(map(len, self._pending)) > max(_PENDING, len(self._known)):
            self._settle()

    def finish(self) -> Keys:
        """All ids.

        Raises:
            AdarError: all ids are numbers, but not all of them whole.
        """
        self._settle()
        try:
            keys, position = unify_numbers(self._kind, self._known)
        except AdarError as error:
            raise AdarError(f"{self._path}: {error}") from None
        return Keys(keys, [position[code_K] for code_K in self._codes])

    def _settle(self) -> None:
        # Codes count in the order of first appearance, so what is known keeps its codes.
        chunks = [self._known, *self._pending]
        try:
            encoded = pa.chunked_array(chunks).dictionary_encode().combine_chunks()
        except pa.ArrowCapacityError:
            raise AdarError(
                f"{self._path}: the ids of its {self._kind}s take more than 2 GiB together; "
                "give shorter ones, such as numbers"
            ) from None
        codes = np.split(encoded.indices.to_numpy(), np.cumsum([len(chunk) for chunk in chunks])[:-1])
        self._codes += codes[1:]
        self._known, self._pending = encoded.dictionary, []


def numbers_of(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """The place of each key among others, int64; UNKNOWN where it is not among them."""
    found = pc.index_in(keys, value_set=among.combine_chunks())
    return pc.fill_null(found, UNKNOWN).to_numpy().astype(np.int64)


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
    if pc.any(is_float).as_py() and pc.all(pc.match_substring_regex(keys, f"^{NUMBER}$")).as_py():
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
    return unified, pc.index_in(written, value_set=unified).to_numpy(zero_copy_only=False).astype(np.int32)
