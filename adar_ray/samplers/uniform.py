"""Uniform negatives: any item that the user has not interacted with, each equally likely.

Legend: B rows of the batch, K negatives a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.draws import Draws
from adar_ray.negatives import Items, Negatives

_REDRAWS = 8


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
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, draws: Draws | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`, or `[1, K, D]` where shared."""
        draws = draws or Draws.fresh(len(user_BD), user_BD.device)
        if self.shared:
            item_K = draws.shared_integers(items.n_items, self.K)
            mask_BK = torch.ones(len(user_BD), self.K, dtype=torch.bool, device=user_BD.device)
            if items.seen is not None:
                mask_BK = ~items.seen(item_K)
            return Negatives(items.vectors(item_K)[None], mask_BK, item_K[None])
        item_BK = draws.integers(items.n_items, self.K)
        mask_BK = torch.ones_like(item_BK, dtype=torch.bool)
        if items.seen is not None:
            # Redrawing the seen ones keeps the rest uniform over the unseen. A user who has seen
            # nearly everything may still be left with a seen item: it is masked, not used.
            for stream in range(1, _REDRAWS + 1):
                seen_BK = items.seen(item_BK)
                if not seen_BK.any():
                    break
                item_BK = torch.where(seen_BK, draws.integers(items.n_items, self.K, stream), item_BK)
            else:
                mask_BK = ~items.seen(item_BK)
        return Negatives(items.vectors(item_BK), mask_BK, item_BK)
