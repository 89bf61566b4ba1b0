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
        self.length_power = 0.0
        """With `cosine`, items are ranked by it times their length to this power."""

    def represent(self, vector: torch.Tensor) -> torch.Tensor:
        """Vectors `[..., D]` as representations: of length one if the score is the cosine."""
        return normalize(vector, dim=-1) if self.cosine else vector

    def represent_for_ranking(self, vector: torch.Tensor) -> torch.Tensor:
        """The vectors `[..., D]` of items, as long as `length_power` says."""
        represented = self.represent(vector)
        if self.cosine and self.length_power:
            represented = represented * vector.norm(dim=-1, keepdim=True) ** self.length_power
        return represented

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.represent(self.item(item))

    def ranking_items(self, item: torch.Tensor) -> torch.Tensor:
        return self.represent_for_ranking(self.item(item))

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)
