"""DENS: hard in the factors that did not make the user choose the positive.

Legend: B rows of the batch, K negatives per row, N candidates per row or negative, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import softplus

from adar_ray.component import SamplerComponent, setting
from adar_ray.losses import in_single, shares
from adar_ray.rng import RowRng
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext
from adar_ray.samplers.candidates import CandidateSettings, pick, uniform_candidates


class DENSSettings(CandidateSettings):
    """DENS (Lai et al., WSDM 2023): hard in the factors that did not make the user choose the positive."""

    warmup: int = setting(
        100,
        "Epochs over which irrelevant factors fade from the choice.",
        search={"choice": [10, 30, 100]},
        ge=1,
        le=1_000_000,
    )
    gamma: float = setting(0.3, "Weight of the gates' own loss.", search={"uniform": [0, 1]}, ge=0, le=1e6)


class DENSSampler(BaseSampler):
    """Lai et al., "Disentangled Negative Sampling for Collaborative Filtering" (WSDM 2023).

    Gates split an item's vector into factors relevant to the choice and the rest. At first the sampler takes,
    among N random items, the one whose irrelevant factors score highest. Over `warmup` epochs relevant
    factors count more and more against an item; in the end only they count. Four contrasts, with a total
    weight of `gamma`, teach the gates and the vectors.

    Departs from the authors' code in three ways: with graph models it gates the item's vector, not each hop;
    with more than one negative it contrasts each by itself; and it counts epochs from 1, not 0. A score that
    is a network judges the gated vector like an item.

    Args:
        dim: D of item representations.
    """

    def __init__(self, dim: int, settings: DENSSettings = DENSSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.user_gate, self.item_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.positive_gate, self.negative_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]` with the gates' loss; `context.epoch` says how far the warm-up is."""
        K, N = self.settings.negatives, self.settings.candidates
        with torch.no_grad():
            item_BN, mask_BN = uniform_candidates(context, rng, K * N)
            relevant_BD = self._relevant_of_positive(user_BD, positive_BD)
            vector_BND = context.vectors(item_BN)
            left = 1 - min(1.0, context.epoch / self.settings.warmup)
            judged_BND = left * vector_BND - self._relevant_of_negative(relevant_BD, vector_BND)
            score_BN = context.score(user_BD, judged_BND).masked_fill(~mask_BN, -torch.inf)
            item_BKN, mask_BKN, score_BKN = (
                x_BN.unflatten(1, (K, N)) for x_BN in (item_BN, mask_BN, score_BN)
            )
            item_BK, mask_BK = pick(item_BKN, score_BKN.argmax(2)), mask_BKN.any(2)
        vector_BKD = context.vectors(item_BK)
        loss_B = self._contrasts(user_BD, positive_BD, vector_BKD, mask_BK, context)
        return Negatives(vector_BKD, mask_BK, item_BK, loss_B=loss_B)

    def _relevant_of_positive(self, user_BD: torch.Tensor, positive_BD: torch.Tensor) -> torch.Tensor:
        return positive_BD * torch.sigmoid(self.item_gate(positive_BD) + self.user_gate(user_BD))

    def _relevant_of_negative(self, relevant_BD: torch.Tensor, negative_BKD: torch.Tensor) -> torch.Tensor:
        gate_BKD = torch.sigmoid(self.negative_gate(negative_BKD) + self.positive_gate(relevant_BD)[:, None])
        return negative_BKD * gate_BKD

    def _contrasts(
        self,
        user_BD: torch.Tensor,
        positive_BD: torch.Tensor,
        negative_BKD: torch.Tensor,
        mask_BK: torch.Tensor,
        context: SamplingContext,
    ) -> torch.Tensor:
        """`[B]`: the positive was chosen for its relevant factors, the negative was not for lack of them."""
        relevant_BD = self._relevant_of_positive(user_BD, positive_BD)
        relevant_BKD = self._relevant_of_negative(relevant_BD, negative_BKD)
        positive_B1 = context.score(user_BD, relevant_BD[:, None])
        positive_rest_B1 = context.score(user_BD, (positive_BD - relevant_BD)[:, None])
        negative_BK = context.score(user_BD, relevant_BKD)
        negative_rest_BK = context.score(user_BD, negative_BKD - relevant_BKD)
        ordered = (
            (positive_B1, positive_rest_B1),
            (negative_rest_BK, negative_BK),
            (positive_B1, negative_BK),
            (negative_rest_BK, positive_rest_B1),
        )
        contrasts = [softplus(in_single(low) - in_single(high)) for high, low in ordered]
        loss_BK = sum(contrasts[1:], contrasts[0]) / len(contrasts)
        return self.settings.gamma * (shares(mask_BK) * loss_BK).sum(1)


COMPONENT = SamplerComponent(
    name="dens",
    settings=DENSSettings,
    build=lambda inputs, settings: DENSSampler(inputs.vector_size, settings),
)
