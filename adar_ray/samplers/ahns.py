"""AHNS: the item whose score is nearest to a target that falls as the positive's score rises.

Legend: B rows of the batch, K negatives per row, N candidates per negative, D dimensions.
"""

from __future__ import annotations

import torch

from adar_ray.component import SamplerComponent, setting
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, real_items
from adar_ray.samplers.candidates import CandidateSettings, pick, scored_candidates


class AHNSSettings(CandidateSettings):
    """AHNS (Lai et al., AAAI 2024): the candidate whose score is nearest to `beta (s + alpha)^(p + 1)`."""

    alpha: float = setting(
        1.0, "Added to the positive's score.", search={"loguniform": [0.1, 10]}, gt=0, le=1e6
    )
    beta: float = setting(0.1, "Hardness of negatives.", search={"loguniform": [0.01, 1]}, gt=0, le=1e6)
    p: float = setting(
        -2.0,
        "At -1 the target is fixed; the lower, the faster it falls with the positive's score.",
        search={"quantized": [-4, -1, 0.5]},
        ge=-100,
        le=-1,
    )


class AHNSSampler(BaseSampler):
    """Lai et al., "Adaptive Hardness Negative Sampling for Collaborative Filtering" (AAAI 2024).

    Among N random items it takes the one whose score is nearest to `beta (s + alpha)^(p + 1)`, with s the
    positive's score. The paper uses N = 32 and p = -2. With p = -1 the target is beta for every s; a higher p
    would let it rise with s.

    Departs from the authors' code if `s + alpha` is not positive and cannot be raised to a power: such a
    positive, which the model has not learned at all, gets the hardest candidate unless p is -1.
    """

    def __init__(self, settings: AHNSSettings = AHNSSettings()) -> None:
        super().__init__()
        self.settings = settings

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`, each chosen among candidates of its own."""
        K, N = self.settings.negatives, self.settings.candidates
        item_BKN, score_BKN, mask_BKN = scored_candidates(user_BD, context, rng, K, N)
        with torch.no_grad():
            positive_B1 = context.score(user_BD, positive_BD[:, None])
            power = self.settings.p + 1
            target_B1 = self.settings.beta * (positive_B1 + self.settings.alpha).clamp_min(0) ** power
            # Distances to a target beyond all scores would round to the same number, or all be infinite.
            hardest_BK1 = score_BKN.masked_fill(~mask_BKN, -torch.inf).amax(2, keepdim=True)
            target_BK1 = torch.minimum(target_B1[..., None], hardest_BK1)
            distance_BKN = (score_BKN - target_BK1).abs().masked_fill(~mask_BKN, torch.inf)
            item_BK = pick(item_BKN, distance_BKN.argmin(2))
        return real_items(context, item_BK, mask_BKN.any(2))


COMPONENT = SamplerComponent(
    name="ahns", settings=AHNSSettings, build=lambda inputs, settings: AHNSSampler(settings)
)
