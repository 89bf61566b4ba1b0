"""SASRec: each position of a history attends to those before it.

Legend: B rows of the batch, L positions of a history, K items a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from adar_ray.interactions import PADDING
from adar_ray.models.protocol import dot_score
from adar_ray.models.sequence import InputLayer, Transformer, embed_items, initialize, visible_positions


class SASRec(nn.Module):
    """Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018).

    The blocks are BERT's, as in RecBole's version: layers are normalized after instead of before, the feed-
    forward layer is four times as wide inside instead of as wide, with GELU instead of ReLU, and the vectors
    that enter are normalized.

    Positions count from the first item shown, which has position 0, not from the end of the row as in
    the paper. A position's state is thereby what the model would say if the history ended there: training
    at all positions of a row is the same as training on each of its beginnings.

    Args:
        n_items: size of the item table.
        length: L; a longer history is an error.
        dim: D, a multiple of `heads`.
        layers: blocks.
        heads: of the attention.
        dropout: of the entering vectors, of attention weights and of what each layer adds.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.item, self.position = nn.Embedding(n_items, dim), nn.Embedding(length, dim)
        self.input_layer = InputLayer(dim, dropout)
        self.transformer = Transformer(dim, layers, heads, dropout)
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        item_BL = batch["history"]
        position_BL = ((item_BL != PADDING).cumsum(1) - 1).clamp_min(0)
        x_BLD = self.input_layer(embed_items(self.item, item_BL), self.position(position_BL))
        user_BLD = self.transformer(x_BLD, visible_positions(item_BL, causal=True))
        return normalize(user_BLD, dim=-1) if self.cosine else user_BLD

    def items(self, item: torch.Tensor) -> torch.Tensor:
        vector = self.item(item)
        return normalize(vector, dim=-1) if self.cosine else vector

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)
