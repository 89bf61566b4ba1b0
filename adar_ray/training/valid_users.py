"""Validation on some of the users."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from adar_ray.interactions.user_items import UserItems
from adar_ray.interactions.users import Users


def of_some_users(
    valid: UserItems,
    limit: int,
    users: Users,
    begin: int,
    all_reduce: Callable[[torch.Tensor], torch.Tensor],
) -> UserItems:
    """What at most `limit` random users have, the same ones for any number of workers.

    Lanes of the dataset in which users have something give equally many of these, as far as they have them.

    Args:
        valid: of the worker's users; the user `begin` has id 0.
        all_reduce: sums a tensor up over all workers.
    """
    if users.total <= limit:
        return valid
    user_N = valid.counts().nonzero()[:, 0].numpy() + begin
    lane_N = users.lane + np.searchsorted(users.bounds, user_N, side="right") - 1
    count_L = all_reduce(torch.from_numpy(np.bincount(lane_N, minlength=users.lanes)))
    drawn, lanes = [np.empty(0, np.int64)], np.flatnonzero(count_L)
    for n, lane in enumerate(lanes):
        share = (n + 1) * limit // len(lanes) - n * limit // len(lanes)
        drawn.append(np.random.default_rng(lane).permutation(user_N[lane_N == lane])[:share])
    user_E, item_E = valid.pairs()
    kept_E = torch.isin(user_E, torch.from_numpy(np.concatenate(drawn) - begin))
    return UserItems(user_E[kept_E], item_E[kept_E], valid.n_users, valid.n_items)
