"""SASRec: each position of a history attends to those before it.

Legend: B rows of the batch, L positions of a history, K items per row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn

from adar_ray.interactions import PADDING
from adar_ray.models.sequence import (
    InputLayer,
    SequentialModel,
    Transformer,
    TransformerSettings,
    embed_items,
    heads_divide,
    initialize,
    laid_out,
    sequential_component,
)
from adar_ray.models.table import Table


class SASRecSettings(TransformerSettings):
    """SASRec (Kang and McAuley, ICDM 2018): each position of a history attends to those before it."""


class SASRec(SequentialModel):
    """Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018).

    The blocks are BERT's, as in RecBole's version: normalization after each layer instead of before, a
    feed-forward layer that is four times as wide inside, GELU instead of ReLU, and normalized input vectors.

    Positions count from the first item, which has position 0, not from the end of the row as in the paper.
    The state at a position is then what the model would say if the history ended there: training at all
    positions of a row equals training on each of its prefixes.

    Args:
        n_items: size of the item table.
        length: L; a longer history is an error.
        embedding_dim: D, a multiple of `heads`.
        cosine: score by the cosine: representations have length one.
        sharded: workers share out the items (see `Table`).
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        embedding_dim: int,
        settings: SASRecSettings = SASRecSettings(),
        cosine: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.item = Table(n_items, embedding_dim, sharded=sharded)
        self.position = nn.Embedding(length, embedding_dim)
        self.input_layer = InputLayer(embedding_dim, settings.dropout)
        self.transformer = Transformer(embedding_dim, settings.layers, settings.heads, settings.dropout)
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        item_BL = batch["history"]
        packing, position_BL = laid_out(item_BL), ((item_BL != PADDING).cumsum(1) - 1).clamp_min(0)
        item_RW, position_RW = packing.pack(item_BL, PADDING), packing.pack(position_BL, 0)
        x_RWD = self.input_layer(embed_items(self.item, item_RW), self.position(position_RW))
        user_RWD = self.transformer(x_RWD, packing.visible(causal=True))
        return packing.unpack(self.represent(user_RWD))


COMPONENT = sequential_component(
    "sasrec",
    SASRecSettings,
    SASRec,
    check=heads_divide,
    defaults={"loss.name": "bce"},
    layer_weights=12,
    layer_activations=9,
)
