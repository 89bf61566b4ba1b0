"""Metrics of full rankings, as sums over users that any number of workers can share.

Legend: B users of a tile, k length of a ranking, G groups, M metrics.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from adar_ray.errors import AdarError
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.models import BaseModel
from adar_ray.ranking.own_metrics import OwnMetric, own_metrics
from adar_ray.ranking.top_items import top_items

_HALF = 30  # bits


class ExactSums:
    """Sums over users that are the same no matter which worker adds which users, by group of users.

    Rounding would depend on the order of the users. So a value is a whole number and, beside it, a multiple
    of 2**-60, whose sums are exact: of the whole numbers, and of the upper and the lower half of the other
    bits, for up to 2**33 users.
    """

    def __init__(self, names: Sequence[str], groups: int = 1) -> None:
        self.names = list(names)
        self.parts = torch.zeros(3, groups, len(self.names), dtype=torch.int64)
        self.counts = torch.zeros(groups, len(self.names), dtype=torch.int64)

    def add(self, values: Mapping[str, torch.Tensor], group_B: torch.Tensor | None = None) -> None:
        """Adds the users' values by name, `[B]`; a user whose value is NaN does not count for it.

        Args:
            group_B: the users' groups; all are in the first one by default.
        """
        value_BM = torch.stack([values[name] for name in self.names], 1).to(torch.float64)
        counts_BM = ~value_BM.isnan()
        value_BM = value_BM.nan_to_num(0.0)
        whole_BM = value_BM.floor()
        bits_BM = ((value_BM - whole_BM) * 2 ** (2 * _HALF)).round().to(torch.int64)
        parts = [whole_BM.to(torch.int64), bits_BM >> _HALF, bits_BM & (1 << _HALF) - 1, counts_BM.long()]
        if group_B is None:
            group_B = torch.zeros(len(value_BM), dtype=torch.int64, device=value_BM.device)
        for into, part_BM in zip((*self.parts, self.counts), parts, strict=True):
            into += part_BM.new_zeros(into.shape).index_add_(0, group_B, part_BM).cpu()

    def means(self, group: int = 0) -> dict[str, float]:
        """The means over the users of a group, without those for which no user counts."""
        return {
            name: ((whole << 2 * _HALF) + (upper << _HALF) + lower) / (count << 2 * _HALF)
            for name, count, whole, upper, lower in zip(
                self.names, self.counts[group].tolist(), *self.parts[:, group].tolist(), strict=True
            )
            if count
        }


class Tally:
    """What users' rankings add up to, whichever worker ranks which users.

    Args:
        own: names of own metrics.
    """

    def __init__(self, n_items: int, ks: Sequence[int], own: Sequence[str] = ()) -> None:
        self.ks = list(ks)
        names = ranking_metrics(torch.zeros(1, max(ks)), torch.ones(1), ks)
        self.sums = ExactSums([*names, *(f"{name}@{k}" for name in own for k in ks)])
        self.shown = torch.zeros(len(self.ks), n_items, dtype=torch.int64)

    @property
    def users(self) -> int:
        """How many users have been added."""
        return int(self.sums.counts[0, 0])

    def add(self, ranked: Ranked) -> None:
        """Adds the rankings of a tile of users."""
        self.sums.add(ranked.metrics)
        for row, k in enumerate(self.ks):
            shown = ranked.item_Bk[:, :k][ranked.valid_Bk[:, :k]].cpu()
            self.shown[row] += torch.bincount(shown, minlength=self.shown.shape[1])

    def add_all(self, rankings: Iterable[Ranked]) -> Tally:
        """Adds all that `rank_users` yields, and returns itself."""
        for ranked in rankings:
            self.add(ranked)
        return self

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that workers add up, elementwise, to get the tally of all workers."""
        return [self.sums.parts, self.sums.counts, self.shown]

    def metrics(self, popularity: torch.Tensor) -> dict[str, float]:
        """Means over users, of whom there must be some, coverage of the catalog, and mean popularity of the
        recommended items.

        Raises:
            AdarError: a metric is NaN for every user.
        """
        result = self.sums.means()
        check_that_users_count(self.sums.names, result)
        for row, k in enumerate(self.ks):
            shown = self.shown[row]
            result[f"coverage@{k}"] = int((shown > 0).sum()) / len(shown)
            result[f"popularity@{k}"] = int((shown * popularity).sum()) / max(int(shown.sum()), 1)
        return result


def check_that_users_count(names: Iterable[str], counted: Container[str]) -> None:
    """Refuses a metric for which no user counts: it says nothing about a model.

    Args:
        counted: the names of metrics for which some user counts.
    """
    for name in names:
        if name not in counted:
            metric = name.rpartition("@")[0]
            raise AdarError(f"metric {metric}: is NaN for every user; return a number for those who count")


class Ranked(NamedTuple):
    """Rankings of the users of a tile.

    Attributes:
        user_B: the users.
        metrics: `metric@k` -> `[B]`.
        item_Bk: the items, best first.
        valid_Bk: which of them are items: there may be fewer than k to rank.
        hit_Bk: which of them are relevant.
    """

    user_B: torch.Tensor
    metrics: dict[str, torch.Tensor]
    item_Bk: torch.Tensor
    valid_Bk: torch.Tensor
    hit_Bk: torch.Tensor


def rank_users(
    model: BaseModel,
    seen: UserItems,
    truth: UserItems,
    ks: Sequence[int],
    history: Histories | None = None,
    own: Mapping[str, OwnMetric] | None = None,
) -> Iterator[Ranked]:
    """Ranks all items for users who have relevant items, in the order of the users.

    Args:
        model: a base model in evaluation mode.
        seen: pairs to leave out of the ranking.
        truth: relevant pairs, where the model and the seen ones are.
        ks: cutoffs.
        history: users' histories, for a sequential model.
        own: own metrics, by name.
    """
    relevant = truth.counts()
    user = relevant.nonzero()[:, 0]
    for user_B, item_Bk, score_Bk in top_items(model, user, seen, max(ks), truth.n_items, history):
        valid_Bk = score_Bk > -torch.inf
        hit_Bk = truth.contains(user_B, item_Bk) & valid_Bk
        metrics = ranking_metrics(hit_Bk, relevant[user_B], ks)
        metrics |= own_metrics(own or {}, user_B, item_Bk, valid_Bk, hit_Bk, relevant[user_B], ks)
        yield Ranked(user_B, metrics, item_Bk, valid_Bk, hit_Bk)
