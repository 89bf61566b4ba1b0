"""Popular negatives: an item is drawn in proportion to a power of its popularity.

Legend: B rows of the batch, K negatives per row, D dimensions, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from adar_ray.component import SamplerComponent, Settings, setting
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, need, real_items
from adar_ray.samplers.candidates import unseen
from adar_ray.samplers.uniform import shared_negatives

_FINE = 1 << 31  # resolution of the random numbers


class PopularitySettings(Settings):
    """Popular items (Mikolov et al., NIPS 2013): drawn in proportion to a power of their popularity."""

    negatives: int = setting(1, "Negatives per positive.", search={"choice": [1, 2, 4, 8]}, ge=1, le=4_096)
    alpha: float = setting(
        0.75,
        "Power of the popularity; 0 is uniform, 1 proportional.",
        search={"uniform": [0, 1]},
        ge=0,
        le=10,
    )


class PopularitySampler(BaseSampler):
    """Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality" (NIPS
    2013), section 2.2, with items for words: `q(i)` in proportion to `popularity(i)^alpha`.

    Departs from it by never drawing what the user has interacted with. An item without interactions is never
    drawn, except at alpha 0, which makes all items equally likely.

    Args:
        shared: draw this many items once for the whole batch; None draws for each row.
    """

    def __init__(
        self, settings: PopularitySettings = PopularitySettings(), shared: int | None = None
    ) -> None:
        super().__init__()
        self.settings, self.shared = settings, shared
        self._weights: ItemWeights | None = None

    @property
    def reads_vectors(self) -> bool:
        return self.shared is not None

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`, or `[1, K, D]` if shared. Needs `context.popularity_I`."""
        popularity_I = need(context.popularity_I, "popularity_I")
        weights = self._weights = ItemWeights.of(popularity_I, self.settings.alpha, self._weights)

        def invert(uniform: torch.Tensor) -> torch.Tensor:
            share = (uniform.double() + 0.5) / _FINE
            return torch.searchsorted(weights.cumulative_I, share).clamp_max(context.n_items - 1)

        if self.shared is not None:
            item_K = invert(rng.shared_integers(_FINE, self.shared))
            negatives = shared_negatives(item_K, len(user_BD), context)
            return replace(negatives, log_q_BK=weights.log_q(item_K[None], context))
        item_BK, mask_BK = unseen(context, rng, self.settings.negatives, _FINE, invert)
        return real_items(context, item_BK, mask_BK, log_q_BK=weights.log_q(item_BK, context))


@dataclass(frozen=True)
class ItemWeights:
    """How often each item is drawn, relative to the others.

    Attributes:
        popularity_I: interactions of each item.
        weight_I: a power of it, and `least` the smallest one above 0.
        cumulative_I: cumulative shares of the weights.
    """

    popularity_I: torch.Tensor
    weight_I: torch.Tensor
    least: torch.Tensor
    cumulative_I: torch.Tensor

    @classmethod
    def of(cls, popularity_I: torch.Tensor, alpha: float, known: ItemWeights | None) -> ItemWeights:
        """The known ones if they are of the same tensor: computing them takes a pass over the catalog."""
        if known is not None and known.popularity_I is popularity_I:
            return known
        weight_I = popularity_I.double() ** alpha
        least = weight_I[weight_I > 0].min()
        return cls(popularity_I, weight_I, least, (weight_I / weight_I.sum()).cumsum(0))

    def log_q(self, item_BK: torch.Tensor, context: SamplingContext) -> torch.Tensor | None:
        """`[B, K]`: logarithm of the negatives' weights over their positives'; None if those are unknown.

        A positive that is never drawn counts like the rarest item that is.
        """
        if context.positive_B is None:
            return None
        return self._log(item_BK) - self._log(context.positive_B)[:, None]

    def _log(self, item: torch.Tensor) -> torch.Tensor:
        return self.weight_I[item].clamp_min(self.least).log().float()


COMPONENT = SamplerComponent(
    name="popularity",
    settings=PopularitySettings,
    build=lambda inputs, settings: PopularitySampler(settings, inputs.shared_negatives),
    shares=True,
)
