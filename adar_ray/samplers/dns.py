"""Dynamic negatives: the hardest of a few random items, or one of the hardest.

Legend: B rows of the batch, K negatives a row, N candidates a negative, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import pick, scored_candidates

_CHOICE = 100  # a stream of random numbers apart from the candidates'


class DNSSampler(nn.Module):
    """Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling" (SIGIR
    2013): the item with the highest score of N random ones. With `top` above 1 it is DNS(M, N) of Shi et al.,
    "On the Theories Behind Hard Negative Sampling for Recommendation" (WWW 2023): one of the M hardest of N,
    each as likely.

    Args:
        K: negatives a positive, each of candidates of its own.
        candidates: N.
        top: M.
    """

    def __init__(self, K: int = 1, candidates: int = 16, top: int = 1) -> None:
        super().__init__()
        self.K, self.candidates, self.top = K, candidates, top

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        item_BKN, score_BKN, mask_BKN = scored_candidates(user_BD, items, rng, self.K, self.candidates)
        score_BKN = score_BKN.masked_fill(~mask_BKN, -torch.inf)
        best_BKM, at_BKM = score_BKN.topk(self.top, dim=2)
        # Of fewer unseen candidates than M, one of those.
        choices_BK = (best_BKM > -torch.inf).sum(2)
        rank_BK = rng.integers(1 << 20, self.K, _CHOICE) * choices_BK >> 20
        item_BK = pick(item_BKN, pick(at_BKM, rank_BK))
        return Negatives(items.vectors(item_BK), choices_BK > 0, item_BK)
