"""Validation on some users: equally many of each lane, the same ones for any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from adar_ray.data.dataset import Dataset
from adar_ray.interactions.user_items import UserItems
from adar_ray.interactions.users import Users
from adar_ray.training.valid_users import of_some_users

Pairs = set[tuple[int, int]]


def chosen(dataset: Dataset, rows: tuple[np.ndarray, np.ndarray], limit: int, workers: int = 1) -> Pairs:
    """What all workers together choose of some rows of a dataset."""
    (user, item), bounds = rows, np.concatenate([[0], np.cumsum(dataset.lanes.users)])
    lanes, found = len(bounds) - 1, set()
    of_lane = torch.tensor([len(np.unique(user[(user >= a) & (user < b)])) for a, b in pairwise(bounds)])
    for worker in range(workers):
        first, last = worker * lanes // workers, (worker + 1) * lanes // workers
        begin, end = int(bounds[first]), int(bounds[last])
        own = (user >= begin) & (user < end)
        valid = UserItems(
            torch.tensor(user[own]) - begin, torch.tensor(item[own]), end - begin, dataset.n_items
        )
        users = Users(bounds[first : last + 1], first, lanes, dataset.n_users)
        all_reduce: Callable[[torch.Tensor], torch.Tensor] = lambda counts: of_lane  # noqa: E731
        user_E, item_E = of_some_users(valid, limit, users, begin, all_reduce).pairs()
        found |= set(zip((user_E + begin).tolist(), item_E.tolist(), strict=True))
    return found


def test_some_users_have_all_that_they_have(dataset: Dataset) -> None:
    rows = dataset.read_split("valid")
    everything = set(zip(*map(np.ndarray.tolist, rows), strict=True))
    assert chosen(dataset, rows, dataset.n_users) == everything
    found = chosen(dataset, rows, 70)
    users = {user for user, _ in found}
    assert 60 <= len(users) <= 70  # a lane may have too few
    assert found == {pair for pair in everything if pair[0] in users}


@pytest.mark.parametrize("limit", [1, 40, 70, 200])
def test_several_workers_choose_what_one_does(dataset: Dataset, limit: int) -> None:
    rows = dataset.read_split("valid")
    assert chosen(dataset, rows, limit, workers=3) == chosen(dataset, rows, limit)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_users_who_count_may_be_in_few_lanes(dataset: Dataset, limit: int) -> None:
    rows = np.array([7, 150, 299]), np.array([1, 2, 3])
    assert len(chosen(dataset, rows, limit)) == min(limit, 3)
