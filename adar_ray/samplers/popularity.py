"""Popular negatives: an item is drawn in proportion to a power of its popularity.

Legend: B rows of the batch, K negatives a row, D dimensions, I items.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import unseen
from adar_ray.samplers.uniform import shared_negatives

_FINE = 1 << 31  # the draws' resolution


class PopularitySampler(nn.Module):
    """Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality"
    (NIPS 2013), section 2.2, with items for words: `q(i)` in proportion to `popularity(i)^alpha`.

    Departs from it by never drawing what the user has interacted with. An item that nobody interacted with
    is never drawn, except at alpha 0, where all items are as likely.

    Args:
        K: negatives a positive.
        alpha: 0 is uniform, 1 popularity itself; the paper's is 0.75.
        shared: draw K items once for the whole batch.
    """

    def __init__(self, K: int = 1, alpha: float = 0.75, shared: bool = False) -> None:
        super().__init__()
        self.K, self.alpha, self.shared = K, alpha, shared

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`, or `[1, K, D]` where shared. Needs `items.popularity_I`."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        weight_I = items.popularity_I.double() ** self.alpha
        cumulative_I = (weight_I / weight_I.sum()).cumsum(0)

        def invert(uniform: torch.Tensor) -> torch.Tensor:
            share = (uniform.double() + 0.5) / _FINE
            return torch.searchsorted(cumulative_I, share).clamp_max(items.n_items - 1)

        if self.shared:
            item_K = invert(rng.shared_integers(_FINE, self.K))
            negatives = shared_negatives(item_K, len(user_BD), items)
        else:
            item_BK, mask_BK = unseen(items, rng, self.K, _FINE, invert)
            negatives = Negatives(items.vectors(item_BK), mask_BK, item_BK)
        return replace(negatives, log_q_BK=log_q(weight_I, negatives.item_BK, items))


def log_q(weight_I: torch.Tensor, item_BK: torch.Tensor, items: Items) -> torch.Tensor | None:
    """`[B, K]`: logarithm of the negatives' weights over their positives'; None if those are not known.

    A positive that is never drawn counts as the rarest that is.
    """
    if items.positive_B is None:
        return None
    log_weight_I = weight_I.clamp_min(weight_I[weight_I > 0].min()).log().float()
    return log_weight_I[item_BK] - log_weight_I[items.positive_B][:, None]
