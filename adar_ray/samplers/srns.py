"""SRNS: negatives from a memory of each user's hard items; those whose score keeps changing come first.

Legend: B rows of the batch held here, A rows of all workers, K negatives per row, S items of a user's memory,
N fresh candidates per row, M = S + N, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import model_validator

from adar_ray.component import SamplerComponent, setting
from adar_ray.models.user_tables import Draw
from adar_ray.rng import RowRng, uniform_numbers
from adar_ray.samplers.base import BaseSampler, Negatives, SamplingContext, excluded_items, need, real_items
from adar_ray.samplers.candidates import CandidateSettings, uniform_candidates

_GUMBEL = 100  # the stream of random numbers of this draw; the candidates have others
_VISITS = 5  # how far mean and variance look back; the paper looks back five epochs


class SRNSSettings(CandidateSettings):
    """SRNS (Ding et al., NeurIPS 2020): hard items from a memory per user, those whose score varies."""

    memory: int = setting(
        20,
        "Candidates remembered per user.",
        search={"choice": [8, 20, 40]},
        structural=True,
        ge=1,
        le=65_536,
    )
    alpha: float = setting(
        1.0, "Weight of the deviation of a candidate's score.", search={"loguniform": [0.1, 10]}, ge=0, le=1e6
    )
    warmup: int = setting(
        50,
        "Epochs over which the deviation gains its weight.",
        search={"choice": [10, 50]},
        ge=1,
        le=1_000_000,
    )
    temperature: float = setting(
        1.0, "The lower, the harder the items in the memory.", search={"loguniform": [0.3, 10]}, gt=0, le=1e6
    )

    @model_validator(mode="after")
    def _negatives_are_in_the_memory(self) -> SRNSSettings:
        if self.negatives > self.memory:
            raise ValueError(
                f"negatives {self.negatives} is more than memory {self.memory}, among which they are chosen"
            )
        return self


class SRNSSampler(BaseSampler):
    """Ding et al., "Simplify and Robustify Negative Sampling for Implicit Collaborative Filtering" (NeurIPS
    2020).

    Each user has a memory of S items. The negative is the one of them with the highest `P + alpha_t std(P)`,
    `P = sigmoid(s_item - s_positive)` (eq. 5): a hidden positive scores high steadily, a true negative falls.
    `alpha_t` rises to alpha over `warmup` epochs. Then S of the memory and N fresh items stay, drawn with
    weights `exp(s / temperature)` (eq. 4).

    Departs from the paper in the deviation: it covers the last visits to an item, weighted exponentially,
    each with the positive of its own row, while the paper keeps the scores of both items for five epochs.
    Seen items that the memory holds because too few others were found are masked.

    Args:
        n_users, n_items: the memory takes 16 bytes per user and remembered item.
    """

    item_US: torch.Tensor
    moments_US2: torch.Tensor

    def __init__(self, n_users: int, n_items: int, settings: SRNSSettings = SRNSSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.n_items = n_items
        self.register_buffer("item_US", torch.randint(n_items, (n_users, settings.memory)))
        # Running means of P and of its square.
        self.register_buffer("moments_US2", torch.full((n_users, settings.memory, 2), torch.nan))

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        def draw_items(rows: torch.Tensor, n_users: int, generator: torch.Generator | None) -> None:
            rows.random_(self.n_items, generator=generator)

        return {"item_US": draw_items, "moments_US2": lambda *_: None}

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        """Negatives `[B, K, D]`. Needs `context.user_B`."""
        user_B = need(context.user_B, "user_B")
        with torch.no_grad():
            kept_BS = self.item_US[user_B]
            fresh_BN, _ = uniform_candidates(context, rng, self.settings.candidates)
            item_BM = torch.cat([kept_BS, fresh_BN], 1)
            unfit_BM = _repeated(item_BM) | excluded_items(context, item_BM, len(item_BM))  # memory is a set
            score_BM = context.score(user_BD, context.vectors(item_BM))
            P_BM = torch.sigmoid(score_BM - context.score(user_BD, positive_BD[:, None]))
            moments_BM2 = self._moments(user_B, P_BM)

            S = kept_BS.shape[1]
            mean_BS, square_BS = moments_BM2[:, :S].unbind(2)
            weight = self.settings.alpha * min(1.0, context.epoch / self.settings.warmup)
            value_BS = P_BM[:, :S] + weight * (square_BS - mean_BS.square()).clamp_min(0).sqrt()
            best_BK, at_BK = value_BS.masked_fill(unfit_BM[:, :S], -torch.inf).topk(
                self.settings.negatives, 1
            )
            item_BK = kept_BS.gather(1, at_BK)
            if self.training:
                self._remember(user_B, item_BM, moments_BM2, score_BM, unfit_BM, rng)
        return real_items(context, item_BK, best_BK > -torch.inf)

    def _moments(self, user_B: torch.Tensor, P_BM: torch.Tensor) -> torch.Tensor:
        """`[B, M, 2]`: running moments with this visit included; for an item's first visit, those of that
        visit."""
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
        """Draws what stays, without replacement (Gumbel's maxima)."""
        uniform_BM = uniform_numbers(rng, item_BM.shape[1], _GUMBEL).to(score_BM)
        value_BM = score_BM / self.settings.temperature - torch.log(-torch.log(uniform_BM))
        at_BS = value_BM.masked_fill(unfit_BM, -torch.inf).topk(self.item_US.shape[1], 1).indices
        item_BS = item_BM.gather(1, at_BS)
        moments_BS2 = moments_BM2.gather(1, at_BS[..., None].expand(-1, -1, 2))
        # A user may be in several rows, all of them here: the last one in the batch stays.
        order_B = torch.argsort(rng.row_B.to(user_B.device))
        order_B = order_B[torch.argsort(user_B[order_B], stable=True)]
        in_order_B = user_B[order_B]
        is_last_B = torch.ones_like(in_order_B, dtype=torch.bool)
        is_last_B[:-1] = in_order_B[1:] != in_order_B[:-1]
        row_U = order_B[is_last_B]
        self.item_US[user_B[row_U]] = item_BS[row_U]
        self.moments_US2[user_B[row_U]] = moments_BS2[row_U].to(self.moments_US2)


def _repeated(item_BM: torch.Tensor) -> torch.Tensor:
    """`[B, M]`: whether the item is further left in its row as well."""
    sorted_BM, at_BM = item_BM.sort(stable=True, dim=1)
    again_BM = torch.zeros_like(item_BM, dtype=torch.bool)
    again_BM[:, 1:] = sorted_BM[:, 1:] == sorted_BM[:, :-1]
    return torch.zeros_like(again_BM).scatter(1, at_BM, again_BM)


COMPONENT = SamplerComponent(
    name="srns",
    settings=SRNSSettings,
    build=lambda inputs, settings: SRNSSampler(inputs.observed.n_users, inputs.observed.n_items, settings),
)
