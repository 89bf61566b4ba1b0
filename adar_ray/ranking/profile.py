"""A profile of a model's rankings: by group of users and of items, and what the lists are like.

Legend: B users of a tile, k length of a ranking, I items, U users who count, N all users, G groups of
items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.ranking.groups import Groups, group_by
from adar_ray.ranking.lists import diversity, gini, miscalibration, novelty, sets_of_users
from adar_ray.ranking.tally import ExactSums, Ranked, Tally

ITEM_GROUPS = 3
LISTS = 256


class Profile:
    """Adds up rankings, tile by tile.

    Diversity takes the most time, so it is measured on `LISTS` lists, of users at equal distances.

    Attributes:
        tally: the metrics of all users.
        item_groups: by the number of an item's users; each has about a third of the training interactions.

    Args:
        observed: the training interactions.
        truth: relevant pairs.
        ks: cutoffs.
        user_groups: groups of all users, by the name of what groups them.
        own: names of own metrics.
    """

    def __init__(
        self,
        observed: UserItems,
        truth: UserItems,
        ks: Sequence[int],
        user_groups: Mapping[str, Groups],
        own: Sequence[str] = (),
    ) -> None:
        self.observed, self.truth, self.ks, self.user_groups = observed, truth, list(ks), user_groups
        self.popularity_I = observed.item_counts()
        self.item_groups = group_by(self.popularity_I, ITEM_GROUPS, self.popularity_I)
        self.tally = Tally(truth.n_items, ks, own)
        metrics = self.tally.sums.names
        self._miscalibration = ExactSums([f"miscalibration@{k}" for k in ks])
        self._diversity = ExactSums([f"diversity@{k}" for k in ks])
        self._by_user = {name: ExactSums(metrics, len(groups)) for name, groups in user_groups.items()}
        by_item = metrics[: len(metrics) - len(own) * len(ks)]
        self._by_item = [ExactSums(by_item) for _ in self.item_groups.sizes]
        self._sets_IU = sets_of_users(observed)
        user_U = truth.counts().nonzero()[:, 0]
        self._is_asked_N = torch.zeros(truth.n_users, dtype=torch.bool)
        self._is_asked_N[user_U[:: -(-len(user_U) // LISTS) or 1]] = True

    def add(self, ranked: Ranked) -> None:
        """Adds the rankings of a tile of users."""
        user_B, metrics, item_Bk, valid_Bk, hit_Bk = ranked
        self.tally.add(ranked)
        for name, groups in self.user_groups.items():
            self._by_user[name].add(metrics, groups.of_N[user_B])
        group_I = self.item_groups.of_N
        history_BG = self._count(self.observed, user_B)
        self._miscalibration.add(miscalibration(history_BG, group_I, item_Bk, valid_Bk, self.ks))
        is_asked_B = self._is_asked_N[user_B]
        self._diversity.add(diversity(self._sets_IU, item_Bk[is_asked_B], valid_Bk[is_asked_B], self.ks))
        relevant_BG = self._count(self.truth, user_B)
        for group, sums in enumerate(self._by_item):
            relevant_B = relevant_BG[:, group]
            hit_in_group_Bk = hit_Bk & (group_I[item_Bk] == group)
            found = ranking_metrics(hit_in_group_Bk, relevant_B.clamp_min(1), self.ks)
            sums.add(
                {name: value_B.masked_fill(relevant_B == 0, torch.nan) for name, value_B in found.items()}
            )

    def metrics(self) -> dict[str, float]:
        """What the tally says, and what the lists are like."""
        metrics = self.tally.metrics(self.popularity_I)
        for k, shown_I in zip(self.ks, self.tally.shown, strict=True):
            metrics[f"novelty@{k}"] = novelty(shown_I, self.popularity_I, self.observed.n_users)
            metrics[f"gini@{k}"] = gini(shown_I)
        return metrics | self._miscalibration.means() | self._diversity.means()

    def by_users(self, name: str) -> list[tuple[int, dict[str, float]]]:
        """For each group of users, how many of them count, and the means of their metrics."""
        sums = self._by_user[name]
        return [(int(counts[0]), sums.means(group)) for group, counts in enumerate(sums.counts)]

    def by_items(self) -> list[tuple[int, dict[str, float]]]:
        """For each group of items, how many users have relevant ones, and the means of their metrics as if
        only these were relevant; and under `share@k` the group's share of all recommendations."""
        shares = []
        for shown_I in self.tally.shown:
            shown_G = torch.zeros(len(self.item_groups), dtype=torch.int64)
            shown_G.index_add_(0, self.item_groups.of_N, shown_I)
            shares.append((shown_G / shown_G.sum().clamp_min(1)).tolist())
        return [
            (
                int(sums.counts[0, 0]),
                sums.means() | {f"share@{k}": share[group] for k, share in zip(self.ks, shares, strict=True)},
            )
            for group, sums in enumerate(self._by_item)
        ]

    def _count(self, pairs: UserItems, user_B: torch.Tensor) -> torch.Tensor:
        """How many items of each group the users have, `[B, G]`."""
        G = len(self.item_groups)
        row, item = pairs.of(user_B)
        return torch.bincount(row * G + self.item_groups.of_N[item], minlength=len(user_B) * G).view(-1, G)
