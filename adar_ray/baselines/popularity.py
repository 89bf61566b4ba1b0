"""Popularity: what most users have.

Legend: B users of a tile, I items, K items per row, D = 1 dimension.
"""

from __future__ import annotations

import torch
from torch import nn


class Popularity(nn.Module):
    """An item's score is its number of users, whoever asks."""

    def __init__(self, count_I: torch.Tensor) -> None:
        super().__init__()
        self.count_I = count_I.to(torch.float32)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.count_I.new_ones(len(batch["user"]), 1)

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.count_I[item][..., None]

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return item_BKD[..., 0].expand(len(user_BD), -1)
