"""Every item but the positive: the negatives of the full cross-entropy.

Legend: B rows of the batch, I items, D dimensions.
"""

from __future__ import annotations

import torch

from adar_ray.component import SamplerComponent, Settings
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, need


class AllItemsSettings(Settings):
    """All items but the positive; with cross_entropy only."""


class AllItems(BaseSampler):
    """The rest of the softmax's denominator. Items that the user has seen belong to it; the positive does
    not."""

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[1, I, D]`. Needs `context.positive_B`."""
        positive_B = need(context.positive_B, "positive_B")
        item_I = torch.arange(context.n_items, device=user_BD.device)
        return Negatives(context.vectors(item_I)[None], positive_B[:, None] != item_I, item_I[None])


COMPONENT = SamplerComponent(
    name="all",
    settings=AllItemsSettings,
    build=lambda inputs, settings: AllItems(),
    takes_all_items=True,
)
