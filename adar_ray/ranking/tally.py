"""Metrics of full rankings, as sums over users that any number of workers can share.

Legend: B users of a tile, k length of a ranking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.models import BaseModel
from adar_ray.ranking.top_items import top_items

_HALF = 30  # bits


class Tally:
    """Sums over users that add up to the same metrics no matter which worker ranks which users.

    Rounding would depend on the order of the users. So a user's metrics are whole multiples of 2**-60, whose
    sums are exact: of the upper and the lower half of their bits, for up to 2**33 users.
    """

    def __init__(self, n_items: int, ks: Sequence[int]) -> None:
        self.ks = list(ks)
        self.names = list(ranking_metrics(torch.zeros(1, max(ks)), torch.ones(1), ks))
        self.halves = torch.zeros(2, len(self.names), dtype=torch.int64)
        self.users = torch.zeros((), dtype=torch.int64)
        self.shown = torch.zeros(len(self.ks), n_items, dtype=torch.int64)

    def add(self, metrics: dict[str, torch.Tensor], item_Bk: torch.Tensor, valid_Bk: torch.Tensor) -> None:
        """Adds users' metrics, and the items that they are shown where `valid_Bk`."""
        self.users += len(item_Bk)
        values = torch.stack([metrics[name] for name in self.names])
        bits = (values * 2 ** (2 * _HALF)).round().to(torch.int64)
        self.halves += torch.stack([bits >> _HALF, bits & (1 << _HALF) - 1]).sum(2).cpu()
        for row, k in enumerate(self.ks):
            shown = item_Bk[:, :k][valid_Bk[:, :k]].cpu()
            self.shown[row] += torch.bincount(shown, minlength=self.shown.shape[1])

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that workers add up, elementwise, to get the tally of all workers."""
        return [self.halves, self.users, self.shown]

    def metrics(self, popularity: torch.Tensor) -> dict[str, float]:
        """Means over users, coverage of the catalog, and mean popularity of the recommended items."""
        users = max(int(self.users), 1)
        sums = [(upper << _HALF) + lower for upper, lower in self.halves.T.tolist()]
        result = {name: total / (users << 2 * _HALF) for name, total in zip(self.names, sums, strict=True)}
        for row, k in enumerate(self.ks):
            shown = self.shown[row]
            result[f"coverage@{k}"] = int((shown > 0).sum()) / len(shown)
            result[f"popularity@{k}"] = int((shown * popularity).sum()) / max(int(shown.sum()), 1)
        return result


class Ranked(NamedTuple):
    """Rankings of the users of a tile.

    Attributes:
        user_B: the users.
        metrics: `metric@k` -> `[B]`.
        item_Bk: the items, best first.
        valid_Bk: which of them are items: there may be fewer than k to rank.
    """

    user_B: torch.Tensor
    metrics: dict[str, torch.Tensor]
    item_Bk: torch.Tensor
    valid_Bk: torch.Tensor


def rank_users(
    model: BaseModel,
    seen: UserItems,
    truth: UserItems,
    ks: Sequence[int],
    user: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    history: Histories | None = None,
) -> Iterator[Ranked]:
    """Ranks all items for users who have relevant items, in the order of the users.

    Args:
        model: a base model in evaluation mode.
        seen: pairs to leave out of the ranking.
        truth: relevant pairs.
        ks: cutoffs.
        user: ids of the users; those without relevant items do not count. By default all.
        device: where to compute.
        history: users' histories, for a sequential model.
    """
    relevant = truth.counts()
    user = (torch.arange(truth.n_users) if user is None else user).to(device)
    for user_B, item_Bk, score_Bk in top_items(
        model, user[relevant[user] > 0], seen, max(ks), truth.n_items, history
    ):
        valid_Bk = score_Bk > -torch.inf
        hit_Bk = truth.contains(user_B, item_Bk) & valid_Bk
        yield Ranked(user_B, ranking_metrics(hit_Bk, relevant[user_B], ks), item_Bk, valid_Bk)


def tally_users(
    model: BaseModel,
    seen: UserItems,
    truth: UserItems,
    ks: Sequence[int],
    user: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    history: Histories | None = None,
) -> Tally:
    """The tally of `rank_users`, whose arguments it takes."""
    tally = Tally(truth.n_items, ks)
    for _, metrics, item_Bk, valid_Bk in rank_users(model, seen, truth, ks, user, device, history):
        tally.add(metrics, item_Bk, valid_Bk)
    return tally
