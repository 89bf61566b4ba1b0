"""DNS: the hardest of a few random items, or one of the hardest.

Legend: B rows of the batch, K negatives per row, N candidates per negative, M of them, D dimensions.
"""

from __future__ import annotations

import torch
from pydantic import model_validator

from adar_ray.component import SamplerComponent, setting
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, real_items
from adar_ray.samplers.candidates import CandidateSettings, pick, scored_candidates

_CHOICE = 100  # the stream of random numbers of this choice; the candidates have others


class DNSSettings(CandidateSettings):
    """DNS (Zhang et al., SIGIR 2013): the hardest of a few random items, or one of the hardest."""

    top: int = setting(
        1,
        "Take one of this many hardest candidates at random.",
        search={"choice": [1, 2, 4]},
        ge=1,
        le=65_536,
    )

    @model_validator(mode="after")
    def _top_is_among_the_candidates(self) -> DNSSettings:
        if self.top > self.candidates:
            raise ValueError(f"top {self.top} is more than candidates {self.candidates}")
        return self


class DNSSampler(BaseSampler):
    """Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling" (SIGIR
    2013): the highest-scoring of N random items.

    With `top` above 1 it is DNS(M, N) of Shi et al., "On the Theories Behind Hard Negative Sampling for
    Recommendation" (WWW 2023): one of the M = `top` hardest of N, all equally likely.
    """

    def __init__(self, settings: DNSSettings = DNSSettings()) -> None:
        super().__init__()
        self.settings = settings

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`, each chosen among candidates of its own."""
        K, N = self.settings.negatives, self.settings.candidates
        item_BKN, score_BKN, mask_BKN = scored_candidates(user_BD, context, rng, K, N)
        score_BKN = score_BKN.masked_fill(~mask_BKN, -torch.inf)
        best_BKM, at_BKM = score_BKN.topk(self.settings.top, dim=2)
        # With fewer unseen candidates than M, one of those.
        choices_BK = (best_BKM > -torch.inf).sum(2)
        rank_BK = rng.integers(1 << 20, K, _CHOICE) * choices_BK >> 20
        item_BK = pick(item_BKN, pick(at_BKM, rank_BK))
        return real_items(context, item_BK, choices_BK > 0)


COMPONENT = SamplerComponent(
    name="dns", settings=DNSSettings, build=lambda inputs, settings: DNSSampler(settings)
)
