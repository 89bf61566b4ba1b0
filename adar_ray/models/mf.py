"""Matrix factorization: a vector a user, a vector an item, and their dot product.

Legend: B rows of the batch, K items a row, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import normalize

from adar_ray.models.protocol import dot_score


class MF(nn.Module):
    """Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems" (2009),
    without biases. Tables start small (Glorot and Bengio, AISTATS 2010), so that on sparse data a vector is
    what its few interactions made of it.

    Args:
        n_users, n_items: sizes of the tables.
        dim: D.
        cosine: representations have length one, so that the score is the cosine.
        sparse: gradients hold the batch's rows only, for the sparse optimizer.
    """

    def __init__(
        self, n_users: int, n_items: int, dim: int = 64, cosine: bool = False, sparse: bool = False
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.user = nn.Embedding(n_users, dim, sparse=sparse)
        self.item = nn.Embedding(n_items, dim, sparse=sparse)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        user_BD = self.user(batch["user"])
        return normalize(user_BD, dim=-1) if self.cosine else user_BD

    def items(self, item: torch.Tensor) -> torch.Tensor:
        vector = self.item(item)
        return normalize(vector, dim=-1) if self.cosine else vector

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)

    @property
    def l2_vectors(self) -> Callable | None:
        """The tables' rows where representations, being of length one, cannot shrink.

        None where they are the representations: each look-up makes a gradient as large as its table.
        """
        return self._rows if self.cosine else None

    def _rows(self, batch: dict[str, torch.Tensor], item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.user(batch["user"]), self.item(item)
