"""Users' latest items, against lists."""

from __future__ import annotations

import pytest
import torch

from adar_ray.interactions.histories import Histories


def ids(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_by_hand():
    # User 2 has done nothing; user 0's interactions lie in two places, as over two splits.
    history = Histories(ids(1, 0, 0, 0, 3, 0), ids(7, 5, 9, 5, 2, 8), 4, 3)
    found = history(torch.tensor([3, 0, 2, 1, 0]))
    assert found.tolist() == [[-1, -1, 2], [9, 5, 8], [-1, -1, -1], [-1, -1, 7], [9, 5, 8]]
    assert found.dtype == torch.int64


@pytest.mark.parametrize("length", [1, 4, 100])
def test_against_lists(length: int):
    draw = torch.Generator().manual_seed(length)
    user_E = torch.randint(30, (400,), generator=draw) ** 2 // 30
    item_E = torch.randint(1000, (400,), generator=draw)
    own: list[list[int]] = [[] for _ in range(32)]
    for user, item in zip(user_E.tolist(), item_E.tolist(), strict=True):
        own[user].append(item)
    assert [] in own
    assert max(map(len, own)) > 10
    expected = [[-1] * (length - len(items)) + items[-length:] for items in own]
    assert Histories(user_E, item_E, 32, length)(torch.arange(32)).tolist() == expected


def test_nobody_has_done_anything():
    assert Histories(ids(), ids(), 2, 3)(torch.arange(2)).tolist() == [[-1] * 3] * 2
    assert Histories(ids(0), ids(4), 2, 3)(torch.arange(0)).shape == (0, 3)
