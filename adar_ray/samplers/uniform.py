"""Uniform negatives: items that the user has not interacted with, all equally likely.

Legend: B rows of the batch, K negatives per row, D dimensions.
"""

from __future__ import annotations

import torch

from adar_ray.component import SamplerComponent, Settings, setting
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, excluded_items, real_items
from adar_ray.samplers.candidates import uniform_candidates


class UniformSettings(Settings):
    """Uniform items (Rendle et al., UAI 2009): any item without an interaction of the user's."""

    negatives: int = setting(1, "Negatives per positive.", search={"choice": [1, 2, 4, 8]}, ge=1, le=4_096)


class UniformSampler(BaseSampler):
    """Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback" (UAI 2009).

    Args:
        shared: draw this many items once for the whole batch and mask those that a row's user has seen; None
            draws for each row. One matrix product then scores them all, as sampled softmax with many
            negatives wants.
    """

    def __init__(self, settings: UniformSettings = UniformSettings(), shared: int | None = None) -> None:
        super().__init__()
        self.settings, self.shared = settings, shared

    @property
    def reads_vectors(self) -> bool:
        return self.shared is not None

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`, or `[1, K, D]` if shared."""
        if self.shared is not None:
            item_K = rng.shared_integers(context.n_items, self.shared)
            return shared_negatives(item_K, len(user_BD), context)
        item_BK, mask_BK = uniform_candidates(context, rng, self.settings.negatives)
        return real_items(context, item_BK, mask_BK)


def shared_negatives(item_K: torch.Tensor, rows: int, context: SamplingContext) -> Negatives:
    """Negatives `[1, K, D]` that all rows share, masked for rows whose user has seen them."""
    mask_BK = ~excluded_items(context, item_K, rows)
    if context.positive_B is not None:
        mask_BK = mask_BK & (context.positive_B[:, None] != item_K)
    return Negatives(context.vectors(item_K)[None], mask_BK, item_K[None])


COMPONENT = SamplerComponent(
    name="uniform",
    settings=UniformSettings,
    build=lambda inputs, settings: UniformSampler(settings, inputs.shared_negatives),
    shares=True,
)
