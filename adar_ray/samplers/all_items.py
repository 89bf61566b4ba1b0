"""Every item but the positive: what the full cross-entropy is taken over.

Legend: B rows of the batch, I items, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives


class AllItems(nn.Module):
    """The softmax's own denominator. Items that the user has seen belong to it, the positive alone not."""

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[1, I, D]`. Needs `items.positive_B`."""
        item_I = torch.arange(items.n_items, device=user_BD.device)
        mask_BI = items.positive_B[:, None] != item_I
        return Negatives(items.vectors(item_I)[None], mask_BI, item_I[None])
