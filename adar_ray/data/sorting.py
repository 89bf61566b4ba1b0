"""Sorting and counting rows by whole numbers, many times faster than comparisons do.

Legend: E rows, U runs of equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_DIGIT = 16  # bits; numpy sorts numbers of two bytes in linear time


def stable_order(number_E: np.ndarray) -> np.ndarray:
    """The positions of the numbers in ascending order, `[E]`; equal ones stay as they are: a radix sort."""
    if not len(number_E):
        return np.empty(0, np.int64)
    low, high = int(number_E.min()), int(number_E.max())
    bits = (high - low).bit_length()
    rest_E = (number_E - number_E.dtype.type(low)).view(f"u{number_E.itemsize}")
    order_E = np.argsort(rest_E.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT, bits, _DIGIT):
        digit_E = (rest_E[order_E] >> shift).astype(np.uint16)
        order_E = order_E[np.argsort(digit_E, kind="stable")]
    return order_E


def runs(number_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal numbers start, and their lengths, `[U]`."""
    start_U = np.flatnonzero(number_E[1:] != number_E[:-1]) + 1
    start_U = np.concatenate([[0], start_U]) if len(number_E) else start_U
    return start_U, np.diff(start_U, append=len(number_E))


@dataclass(frozen=True)
class Counted:
    """Different numbers, and how many rows each has."""

    ids: np.ndarray
    counts: np.ndarray

    def add_to(self, totals: np.ndarray) -> None:
        """Add the counts to those of all numbers."""
        totals[self.ids] += self.counts


def count_both(user_E: np.ndarray, item_E: np.ndarray) -> tuple[Counted, Counted]:
    """The rows of each user and of each item, given rows that are sorted by user."""
    start_U, count_U = runs(user_E)
    count_I = np.bincount(item_E)
    item_I = np.flatnonzero(count_I)
    return Counted(user_E[start_U], count_U), Counted(item_I, count_I[item_I])
