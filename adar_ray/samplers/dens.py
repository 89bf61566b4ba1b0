"""Disentangled negatives: hard in the factors that did not make the user choose the positive.

Legend: B rows of the batch, K negatives a row, N candidates a row or a negative, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import softplus

from adar_ray.losses import shares
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import pick, uniform_candidates


class DENSSampler(nn.Module):
    """Lai et al., "Disentangled Negative Sampling for Collaborative Filtering" (WSDM 2023). Gates part an
    item's vector into factors relevant to the choice and the rest. Of N random items that one is taken whose
    irrelevant factors score highest, at first; over `warmup` epochs relevant factors come to count against an
    item, and in the end they alone. Four contrasts, of weight `gamma` together, teach the gates (and the
    vectors).

    Departs from the authors' code in graph models, where the code gates each hop and this the item's vector,
    where K is above 1, where each negative is contrasted by itself, and in counting epochs from 1, not 0. A
    score that is a network judges the gated vector as it would an item.

    Args:
        dim: D.
        K: negatives a positive, each of candidates of its own.
        candidates: N.
        warmup: epochs.
        gamma: weight of the contrasts.
    """

    def __init__(
        self, dim: int, K: int = 1, candidates: int = 16, warmup: int = 100, gamma: float = 0.3
    ) -> None:
        super().__init__()
        self.K, self.candidates, self.warmup, self.gamma = K, candidates, warmup, gamma
        self.user_gate, self.item_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.positive_gate, self.negative_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]` with the gates' loss; `items.epoch` says how far the warm-up is."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        with torch.no_grad():
            item_BN, mask_BN = uniform_candidates(items, rng, self.K * self.candidates)
            relevant_BD = self._relevant_of_positive(user_BD, positive_BD)
            vector_BND = items.vectors(item_BN)
            left = 1 - min(1.0, items.epoch / self.warmup)
            judged_BND = left * vector_BND - self._relevant_of_negative(relevant_BD, vector_BND)
            score_BN = items.score(user_BD, judged_BND).masked_fill(~mask_BN, -torch.inf)
            item_BKN, mask_BKN, score_BKN = (
                x_BN.unflatten(1, (self.K, self.candidates)) for x_BN in (item_BN, mask_BN, score_BN)
            )
            item_BK, mask_BK = pick(item_BKN, score_BKN.argmax(2)), mask_BKN.any(2)
        vector_BKD = items.vectors(item_BK)
        loss_B = self._contrasts(user_BD, positive_BD, vector_BKD, mask_BK, items)
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
        items: Items,
    ) -> torch.Tensor:
        """`[B]`: the positive was chosen for its relevant factors, the negative left for the lack of such."""
        relevant_BD = self._relevant_of_positive(user_BD, positive_BD)
        relevant_BKD = self._relevant_of_negative(relevant_BD, negative_BKD)
        positive_B1 = items.score(user_BD, relevant_BD[:, None])
        positive_rest_B1 = items.score(user_BD, (positive_BD - relevant_BD)[:, None])
        negative_BK = items.score(user_BD, relevant_BKD)
        negative_rest_BK = items.score(user_BD, negative_BKD - relevant_BKD)
        ordered = (
            (positive_B1, positive_rest_B1),
            (negative_rest_BK, negative_BK),
            (positive_B1, negative_BK),
            (negative_rest_BK, positive_rest_B1),
        )
        loss_BK = sum(softplus(low - high) for high, low in ordered) / len(ordered)
        return self.gamma * (shares(mask_BK) * loss_BK).sum(1)
