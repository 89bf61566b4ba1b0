"""Metrics of full rankings, as sums over users that any number of workers can share.

Legend: B users of a tile, k length of a ranking.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.models import BaseModel
from adar_ray.models.protocol import snapshot
from adar_ray.ranking.top_items import TILE, top_items


class Tally:
    """Sums over users that add up to the same metrics no matter which worker ranks which users.

    Sums are kept for each tile and added in the order of tiles, since rounding depends on the order.
    """

    def __init__(self, tiles: int, n_items: int, ks: Sequence[int]) -> None:
        self.ks = list(ks)
        self.names = list(ranking_metrics(torch.zeros(1, max(ks)), torch.ones(1), ks))
        self.tile_sums = torch.zeros(tiles, len(self.names), dtype=torch.float64)
        self.users = torch.zeros((), dtype=torch.int64)
        self.shown = torch.zeros(len(self.ks), n_items, dtype=torch.int64)

    def add(
        self, tile: int, metrics: dict[str, torch.Tensor], item_Bk: torch.Tensor, valid_Bk: torch.Tensor
    ) -> None:
        self.users += len(item_Bk)
        self.tile_sums[tile] = torch.stack([metrics[name].sum() for name in self.names]).cpu()
        for row, k in enumerate(self.ks):
            shown = item_Bk[:, :k][valid_Bk[:, :k]].cpu()
            self.shown[row] += torch.bincount(shown, minlength=self.shown.shape[1])

    def tensors(self) -> list[torch.Tensor]:
        """The tensors that workers add up, elementwise, to get the tally of all workers."""
        return [self.tile_sums, self.users, self.shown]

    def metrics(self, popularity: torch.Tensor) -> dict[str, float]:
        """Means over users, coverage of the catalog, and mean popularity of the recommended items."""
        users = max(int(self.users), 1)
        means = [math.fsum(column) / users for column in self.tile_sums.T.tolist()]
        result = dict(zip(self.names, means, strict=True))
        for row, k in enumerate(self.ks):
            shown = self.shown[row]
            result[f"coverage@{k}"] = int((shown > 0).sum()) / len(shown)
            result[f"popularity@{k}"] = int((shown * popularity).sum()) / max(int(shown.sum()), 1)
        return result


def tally_users(
    model: BaseModel,
    seen: UserItems,
    truth: UserItems,
    ks: Sequence[int],
    tiles: Iterable[int] | None = None,
    device: torch.device | str = "cpu",
    history: Histories | None = None,
) -> Tally:
    """Ranks all items for the users who have relevant items.

    Args:
        model: a base model in evaluation mode.
        seen: pairs to leave out of the ranking.
        truth: relevant pairs.
        ks: cutoffs.
        tiles: numbers of the tiles of `TILE` users to rank; by default all.
        device: where to compute.
        history: users' histories, for a sequential model.
    """
    user = truth.counts().nonzero()[:, 0]
    n_tiles = -(-len(user) // TILE)
    tally = Tally(n_tiles, truth.n_items, ks)
    with torch.no_grad():
        model = snapshot(model)
    for tile in range(n_tiles) if tiles is None else tiles:
        users = user[tile * TILE : (tile + 1) * TILE].to(device)
        for user_B, item_Bk, score_Bk in top_items(model, users, seen, max(ks), truth.n_items, history):
            valid_Bk = score_Bk > -torch.inf
            hit_Bk = truth.contains(user_B, item_Bk) & valid_Bk
            relevant_B = truth.counts()[user_B]
            tally.add(tile, ranking_metrics(hit_Bk, relevant_B, ks), item_Bk, valid_Bk)
    return tally


def tile_count(truth: UserItems) -> int:
    """The number of tiles that the users with relevant items fill."""
    return -(-int((truth.counts() > 0).sum()) // TILE)
