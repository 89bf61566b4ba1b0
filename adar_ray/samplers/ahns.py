"""Adaptive hardness: the item whose score is nearest to a target that falls as the positive's score rises.

Legend: B rows of the batch, K negatives a row, N candidates a negative, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import pick, scored_candidates


class AHNSSampler(nn.Module):
    """Lai et al., "Adaptive Hardness Negative Sampling for Collaborative Filtering" (AAAI 2024): of N random
    items the one whose score is nearest to `beta (s + alpha)^(p + 1)`, with s the positive's score.

    Departs from the authors' code where `s + alpha` is not positive, which is no power's base: such a
    positive, as badly learned as can be, gets the hardest candidate.

    Args:
        K: negatives a positive, each of candidates of its own.
        candidates: N; 32 in the paper.
        alpha, beta, p: of the target; p is -2 in the paper. With -1 the target is beta, whatever s is; above
            that it would rise with s.
    """

    def __init__(
        self, K: int = 1, candidates: int = 32, alpha: float = 1.0, beta: float = 0.1, p: float = -2.0
    ) -> None:
        super().__init__()
        self.K, self.candidates, self.alpha, self.beta, self.p = K, candidates, alpha, beta, p

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        item_BKN, score_BKN, mask_BKN = scored_candidates(user_BD, items, rng, self.K, self.candidates)
        with torch.no_grad():
            positive_B1 = items.score(user_BD, positive_BD[:, None])
            target_B1 = self.beta * (positive_B1 + self.alpha).clamp_min(0) ** (self.p + 1)
            # Distances from a target beyond all scores are rounded until they are equal, or are all infinite.
            hardest_BK1 = score_BKN.masked_fill(~mask_BKN, -torch.inf).amax(2, keepdim=True)
            target_BK1 = torch.minimum(target_B1[..., None], hardest_BK1)
            distance_BKN = (score_BKN - target_BK1).abs().masked_fill(~mask_BKN, torch.inf)
            item_BK = pick(item_BKN, distance_BKN.argmin(2))
        return Negatives(items.vectors(item_BK), mask_BKN.any(2), item_BK)
