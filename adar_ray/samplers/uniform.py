"""Uniform negatives: any item that the user has not interacted with, each equally likely.

Legend: B rows of the batch, K negatives a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import uniform_candidates


class UniformSampler(nn.Module):
    """Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009).

    Args:
        K: negatives a positive.
        shared: draw K items once for the whole batch, and mask out those that a row's user has seen.
            One matrix product then scores them all, as sampled softmax with many negatives wants.
    """

    def __init__(self, K: int = 1, shared: bool = False) -> None:
        super().__init__()
        self.K, self.shared = K, shared

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`, or `[1, K, D]` where shared."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        if self.shared:
            item_K = rng.shared_integers(items.n_items, self.K)
            return shared_negatives(item_K, len(user_BD), items)
        item_BK, mask_BK = uniform_candidates(items, rng, self.K)
        return Negatives(items.vectors(item_BK), mask_BK, item_BK)


def shared_negatives(item_K: torch.Tensor, rows: int, items: Items) -> Negatives:
    """Negatives `[1, K, D]` that all rows have in common, less those that a row's user has seen."""
    mask_BK = torch.ones(rows, len(item_K), dtype=torch.bool, device=item_K.device)
    if items.seen is not None:
        mask_BK = ~items.seen(item_K)
    if items.positive_B is not None:
        mask_BK = mask_BK & (items.positive_B[:, None] != item_K)
    return Negatives(items.vectors(item_K)[None], mask_BK, item_K[None])
