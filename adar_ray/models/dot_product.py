"""What models that score by a dot product of vectors share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from adar_ray.models.protocol import dot_score


class DotProductModel(nn.Module):
    """An item table, `item`, and scores that are dot products or, with `cosine`, cosines."""

    item: nn.Embedding
    scores_by_dot_product = True

    def __init__(self, cosine: bool) -> None:
        super().__init__()
        self.cosine = cosine

    def represent(self, vector: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., D]` as representations: of length one if the score is the cosine."""
        return normalize(vector, dim=-1) if self.cosine else vector

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.represent(self.item(item))

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)
