"""What a sampler is asked and what it answers.

Legend: B rows of the batch, K negatives a row, D dimensions, P items of a shared pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from adar_ray.models.protocol import dot_score
from adar_ray.rng import RowRng


@dataclass(frozen=True)
class Items:
    """What a sampler may look items up with. The first two are always there, the others if somebody knows.

    Attributes:
        vectors: ids of any shape -> item representations with a last dimension D.
        n_items: ids run from 0 to n_items - 1.
        score: (user_BD, item_BKD or item_1KD) -> score_BK.
        seen: ids `[B, K]` or, shared, `[P]` -> whether this batch's users interacted with them.
        seen_count_B: how many items each of this batch's users interacted with; None where what comes next is
            to be found, and not all that he would like.
        user_B, positive_B: the rows' users and positives, as ids.
        popularity_I: interactions of each item.
        layers: ids of any shape -> representations `[..., H, D]` after each of a graph model's H hops,
            whose mean is `vectors`.
        epoch: the pass over the data, from 1.
    """

    vectors: Callable[[torch.Tensor], torch.Tensor]
    n_items: int
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = dot_score
    seen: Callable[[torch.Tensor], torch.Tensor] | None = None
    seen_count_B: torch.Tensor | None = None
    user_B: torch.Tensor | None = None
    positive_B: torch.Tensor | None = None
    popularity_I: torch.Tensor | None = None
    layers: Callable[[torch.Tensor], torch.Tensor] | None = None
    epoch: int = 1


@dataclass(frozen=True)
class Negatives:
    """A sampler's answer.

    Attributes:
        vector_BKD: representations; `[1, K, D]` where all rows share their negatives.
        mask_BK: False where a row has no negative to give, as for a user who has seen every item.
        item_BK: the items that the vectors are, `[1, K]` where shared; None if they are generated.
        timestep_BK: for ADAR, the diffusion step of each negative, as a share of T; else None.
        softened_B: for ADAR, whether the user has seen so much that noise was softened; None if that is not
            known.
        log_q_BK: natural logarithm of the probability of drawing each, less that of drawing the row's
            positive; `[B, K]`. None where all items are as likely.
        loss_B: what the sampler itself wants minimized, for parameters of its own; `[B]`.
        source: of generated negatives, the items that they are made of beside the positive: ids `[B, K]` and
            vectors `[B, K, D]`; None if they are made of none.
    """

    vector_BKD: torch.Tensor
    mask_BK: torch.Tensor
    item_BK: torch.Tensor | None = None
    timestep_BK: torch.Tensor | None = None
    softened_B: torch.Tensor | None = None
    log_q_BK: torch.Tensor | None = None
    loss_B: torch.Tensor | None = None
    source: tuple[torch.Tensor, torch.Tensor] | None = None


class Sampler(Protocol):
    """Gives negatives for a batch; never a seen item as a sure negative."""

    def __call__(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives: ...
