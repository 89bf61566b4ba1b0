"""Windows over users' items become sequence rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from adar_ray.data.sequences import Windows
from adar_ray.errors import AdarError

L = 4


def slow_windows(items: list[int], length: int, stride: int) -> list[list[int]]:
    """A user's rows without padding, oldest first, by the definition."""
    rows, end = [], len(items)
    while len(items[:end]) >= 2 and end > 0:
        rows.insert(0, items[max(0, end - length - 1) : end])
        end -= stride
    return rows


def padded(row: list[int], length: int) -> list[int]:
    return [-1] * (length + 1 - len(row)) + row


def rows_of(windows: Windows, *users: tuple[int, list[int]]) -> tuple[list[int], list[list[int]]]:
    user_E = np.repeat([user for user, _ in users], [len(items) for _, items in users]).astype(np.int32)
    item_E = np.array([item for _, items in users for item in items], dtype=np.int32)
    user_R, item_RN = windows.rows(user_E, item_E)
    assert user_R.dtype == item_RN.dtype == np.int32
    assert item_RN.shape == (len(user_R), windows.length + 1)
    return user_R.tolist(), item_RN.tolist()


@pytest.mark.parametrize(
    ("stride", "items", "rows"),
    [
        (L, 0, []),
        (L, 1, []),
        (L, 2, [[0, 1]]),
        (L, L, [[0, 1, 2, 3]]),
        (L, L + 1, [[0, 1, 2, 3, 4]]),
        (L, L + 2, [[0, 1], [1, 2, 3, 4, 5]]),
        (L, 2 * L + 3, [[0, 1, 2], [2, 3, 4, 5, 6], [6, 7, 8, 9, 10]]),
        (3, L, [[0, 1, 2, 3]]),
        (3, L + 1, [[0, 1], [0, 1, 2, 3, 4]]),
        (3, L + 2, [[0, 1, 2], [1, 2, 3, 4, 5]]),
        (3, 2 * L + 3, [[0, 1], [0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]),
        (1, 1, []),
        (1, 2, [[0, 1]]),
        (1, L, [[0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        (1, L + 2, [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]),
    ],
)
def test_windows_by_hand(stride: int, items: int, rows: list[list[int]]):
    user, item = rows_of(Windows(L, stride), (0, [50, 51]), (3, list(range(items))), (4, [60, 61]))
    others = [[50, 51], [60, 61]]
    assert user == [0, *[3] * len(rows), 4]
    assert item == [padded(row, L) for row in [others[0], *rows, others[1]]]


@pytest.mark.parametrize(("length", "stride"), [(1, 1), (5, 1), (5, 2), (5, 5), (50, 7), (50, 50)])
def test_windows_match_a_loop_and_each_item_but_the_first_is_a_target_once(length: int, stride: int):
    draw = np.random.default_rng(length + stride)
    counts = draw.integers(1, 4 * length + 3, 60)
    users = [(int(user), draw.integers(0, 9, count).tolist()) for user, count in enumerate(counts * 2)]
    rows = [(user, row) for user, items in users for row in slow_windows(items, length, stride)]
    user, item = rows_of(Windows(length, stride), *users)
    assert user == [user for user, _ in rows]
    assert item == [padded(row, length) for _, row in rows]
    learned = [(user, i) for user, row in rows for i in row[-min(stride, len(row) - 1) :]]
    assert Counter(learned) == Counter((user, i) for user, items in users for i in items[1:])


@pytest.mark.parametrize(
    ("length", "stride", "words"), [(0, 0, "length 0"), (5, 0, "1 to 5"), (5, 6, "1 to 5"), (5, -1, "1 to 5")]
)
def test_invalid_windows(length: int, stride: int, words: str):
    with pytest.raises(AdarError, match=words):
        Windows(length, stride)
