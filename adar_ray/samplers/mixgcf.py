"""Negatives mixed of the positive and, hop by hop, of the hardest of a few random items.

Legend: B rows of the batch, K negatives a row, N candidates a negative, H hops, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import uniform_candidates, uniform_numbers

_SHARES = 100  # a stream of random numbers apart from the candidates'


class MixGCFSampler(nn.Module):
    """Huang et al., "MixGCF: An Improved Training Method for Graph Neural Network-based Recommender Systems"
    (KDD 2021). Positive mixing (eq. 5): candidates' vectors take a random share, uniform in (0, 1), of the
    positive's; at one hop all of them the same. Hop mixing (eq. 6 and 7): at each hop the mixture with the
    highest score is taken, and the negative is the mean over hops. The gradient reaches the positive, too,
    through its share.

    For a model without hops (no `items.layers`) it is positive mixing alone. Departs from the paper by
    scoring with the model's own score where that is no inner product, and from the authors' code by an L2
    penalty on the item of the first hop, where theirs is on its mixture.

    Args:
        K: negatives a positive, each of candidates of its own.
        candidates: N.
    """

    def __init__(self, K: int = 1, candidates: int = 16) -> None:
        super().__init__()
        self.K, self.candidates = K, candidates

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`. Hop mixing needs `items.positive_B`."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        item_BN, mask_BN = uniform_candidates(items, rng, self.K * self.candidates)
        item_BKN, mask_BKN = (x.unflatten(1, (self.K, -1)) for x in (item_BN, mask_BN))
        hops = items.layers or (lambda item: items.vectors(item)[..., None, :])
        positive_BHD = hops(items.positive_B) if items.layers else positive_BD[:, None]
        H = positive_BHD.shape[1]
        share_BKH = uniform_numbers(rng, self.K * H, _SHARES).unflatten(1, (self.K, H)).to(positive_BHD)
        with torch.no_grad():
            mixed_BKNHD = _mix(positive_BHD[:, None, None], hops(item_BKN), share_BKH[:, :, None])
            score_BKNH = items.score(user_BD, mixed_BKNHD.flatten(1, 3)).unflatten(
                1, (self.K, self.candidates, H)
            )
            at_BKH = score_BKNH.masked_fill(~mask_BKN[..., None], -torch.inf).argmax(2)
            item_BKH = item_BKN.gather(2, at_BKH)
        # Of each chosen item the vector of the hop that it was chosen for: the diagonal of hops by hops.
        chosen_BKHD = hops(item_BKH).diagonal(dim1=2, dim2=3).transpose(2, 3)
        mixed_BKHD = _mix(positive_BHD[:, None], chosen_BKHD, share_BKH)
        first = item_BKH[..., 0], chosen_BKHD[..., 0, :]
        return Negatives(mixed_BKHD.mean(2), mask_BKN.any(2), source=first)


def _mix(positive: torch.Tensor, negative: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return share[..., None] * positive + (1 - share[..., None]) * negative
