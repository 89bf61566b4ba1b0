"""Negatives from a memory of each user's hard items, those preferred whose score keeps changing.

Legend: B rows of the batch held here, A rows of all workers, K negatives a row, S items of a user's memory,
N fresh candidates a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.distributed import gather_rows
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives
from adar_ray.samplers.candidates import uniform_candidates, uniform_numbers

_GUMBEL = 100  # a stream of random numbers apart from the candidates'
_VISITS = 5  # that mean and variance look back; the paper's epochs


class SRNSSampler(nn.Module):
    """Ding et al., "Simplify and Robustify Negative Sampling for Implicit Collaborative Filtering" (NeurIPS
    2020). Each user has a memory of S items. Of these the negative is the one with the highest
    `P + alpha_t std(P)`, `P = sigmoid(s_item - s_positive)` (eq. 5): a hidden positive scores high steadily,
    a true negative falls. `alpha_t` rises to alpha over `warmup` epochs. Then S of the memory and N fresh
    items stay, drawn with weights `exp(s / temperature)` (eq. 4).

    Departs from the paper in the deviation: over the last visits to an item, weighed exponentially, each
    with the positive of its own row, where the paper keeps the scores of both items of five epochs. What the
    memory holds of seen items, because too few others were found, is masked.

    Args:
        n_users, n_items: the memory takes 16 bytes a user and item of memory.
        K: negatives a positive, at most S.
        candidates: N.
        memory: S.
        alpha: weight of the deviation.
        warmup: epochs.
        temperature: of the weights; the lower, the harder the memory.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        K: int = 1,
        candidates: int = 16,
        memory: int = 20,
        alpha: float = 1.0,
        warmup: int = 50,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.K, self.candidates, self.alpha = K, candidates, alpha
        self.warmup, self.temperature = warmup, temperature
        self.register_buffer("item_US", torch.randint(n_items, (n_users, memory)))
        # Of P: the running mean, and the running mean of its square.
        self.register_buffer("moments_US2", torch.full((n_users, memory, 2), torch.nan))

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        """Negatives `[B, K, D]`. Needs `items.user_B`. In training all workers call it equally often."""
        rng = rng or RowRng.fresh(len(user_BD), user_BD.device)
        with torch.no_grad():
            kept_BS, fresh_BN = (
                self.item_US[items.user_B],
                uniform_candidates(items, rng, self.candidates)[0],
            )
            item_BM = torch.cat([kept_BS, fresh_BN], 1)
            seen_BM = (
                torch.zeros_like(item_BM, dtype=torch.bool) if items.seen is None else items.seen(item_BM)
            )
            unfit_BM = seen_BM | _repeated(item_BM)  # the memory is a set
            score_BM = items.score(user_BD, items.vectors(item_BM))
            P_BM = torch.sigmoid(score_BM - items.score(user_BD, positive_BD[:, None]))
            moments_BM2 = self._moments(items.user_B, P_BM)

            S = kept_BS.shape[1]
            mean_BS, square_BS = moments_BM2[:, :S].unbind(2)
            weight = self.alpha * min(1.0, items.epoch / self.warmup)
            value_BS = P_BM[:, :S] + weight * (square_BS - mean_BS.square()).clamp_min(0).sqrt()
            best_BK, at_BK = value_BS.masked_fill(unfit_BM[:, :S], -torch.inf).topk(self.K, 1)
            item_BK = kept_BS.gather(1, at_BK)
            if self.training:
                self._remember(items.user_B, item_BM, moments_BM2, score_BM, unfit_BM, rng)
        return Negatives(items.vectors(item_BK), best_BK > -torch.inf, item_BK)

    def _moments(self, user_B: torch.Tensor, P_BM: torch.Tensor) -> torch.Tensor:
        """`[B, M, 2]`: running moments with this visit in; of items seen for the first time its own."""
        now_BM2 = torch.stack([P_BM, P_BM.square()], 2)
        before_BS2 = self.moments_US2[user_B].to(now_BM2)
        moved_BS2 = before_BS2.lerp(now_BM2[:, : before_BS2.shape[1]], 1 / _VISITS)
        known_BS2 = torch.where(moved_BS2.isnan(), now_BM2[:, : before_BS2.shape[1]], moved_BS2)
        return torch.cat([known_BS2, now_BM2[:, before_BS2.shape[1] :]], 1)

    def _remember(
        self,
        user_B: torch.Tensor,
        item_BM: torch.Tensor,
        moments_BM2: torch.Tensor,
        score_BM: torch.Tensor,
        unfit_BM: torch.Tensor,
        rng: RowRng,
    ) -> None:
        """Draws what stays, without replacement (Gumbel's maxima), and tells all workers."""
        uniform_BM = uniform_numbers(rng, item_BM.shape[1], _GUMBEL).to(score_BM)
        value_BM = score_BM / self.temperature - torch.log(-torch.log(uniform_BM))
        at_BS = value_BM.masked_fill(unfit_BM, -torch.inf).topk(self.item_US.shape[1], 1).indices
        item_BS = item_BM.gather(1, at_BS)
        moments_BS2 = moments_BM2.gather(1, at_BS[..., None].expand(-1, -1, 2))
        user_A, key_A, item_AS, moments_AS2 = (
            gather_rows(x) for x in (user_B, rng.row_B, item_BS, moments_BS2.to(self.moments_US2))
        )
        # A user may stand in several rows: whoever holds them, the one with the highest key writes last.
        order_A = torch.argsort(key_A)
        order_A = order_A[torch.argsort(user_A[order_A], stable=True)]
        user_A = user_A[order_A]
        last_A = torch.ones_like(user_A, dtype=torch.bool)
        last_A[:-1] = user_A[1:] != user_A[:-1]
        self.item_US[user_A[last_A]] = item_AS[order_A[last_A]]
        self.moments_US2[user_A[last_A]] = moments_AS2[order_A[last_A]]


def _repeated(item_BM: torch.Tensor) -> torch.Tensor:
    """`[B, M]`: whether the item stands further to the left of its row as well."""
    sorted_BM, at_BM = item_BM.sort(stable=True, dim=1)
    again_BM = torch.zeros_like(item_BM, dtype=torch.bool)
    again_BM[:, 1:] = sorted_BM[:, 1:] == sorted_BM[:, :-1]
    return torch.zeros_like(again_BM).scatter(1, at_BM, again_BM)
