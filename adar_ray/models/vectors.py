"""A base model that is nothing but vectors.

Legend: U users, I items, B rows of the batch, K items per row, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from adar_ray.models.protocol import dot_score


@dataclass(frozen=True)
class Vectors:
    """Vectors of users and items, and how they are scored.

    Attributes:
        user_UD, item_ID: the vectors, by id.
        score: `(user_BD, item_BKD or item_1KD) -> score_BK`.
    """

    user_UD: torch.Tensor
    item_ID: torch.Tensor
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = dot_score

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.user_UD[batch["user"]]

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.item_ID[item]
