"""BERT4Rec: items hidden in a history are predicted from the items before and after them.

Legend: B rows of the batch, L positions of a history, N = L + 1 positions that the model reads, K items a
row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, pad

from adar_ray.component import setting
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
from adar_ray.rng import RowRng

_LAST_ONLY = 0.5
_DRAWN = 1 << 30  # random integers are below this


class BERT4RecSettings(TransformerSettings):
    """BERT4Rec (Sun et al., CIKM 2019): items hidden in a history are predicted from both sides."""

    mask_share: float = setting(
        0.2, "Share of positions hidden in training.", search={"quantized": [0.1, 0.6, 0.1]}, gt=0, lt=1
    )


class BERT4Rec(SequentialModel):
    """Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer" (CIKM 2019).

    In training the model reads what `cloze` gives. In evaluation a mask follows the history, and its state is
    the user now. Only the state of a mask may be compared with items: any other knows its own item and those
    after it, so `users` gives the zero vector there.

    Departures: the output layer (eq. 7) has no bias per item, since scores are dot products. Positions count
    from the end of the row, so that the mask that asks for the next item has the same position however short
    the history.

    Args:
        n_items: size of the catalog; the table has one more row, for the mask.
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
        settings: BERT4RecSettings = BERT4RecSettings(),
        cosine: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.mask, self.mask_share = n_items, settings.mask_share
        self.item = Table(n_items + 1, embedding_dim, sharded=sharded)
        self.position = nn.Embedding(length + 1, embedding_dim)
        self.input_layer = InputLayer(embedding_dim, settings.dropout)
        self.transformer = Transformer(embedding_dim, settings.layers, settings.heads, settings.dropout)
        self.projection, self.projection_norm = (
            nn.Linear(embedding_dim, embedding_dim),
            nn.LayerNorm(embedding_dim, eps=1e-12),
        )
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        shown_BN = batch["history"]
        width = shown_BN.shape[1]
        if not self.training:
            shown_BN = pad(shown_BN, (0, 1), value=self.mask)
        # Counted from the end: the last row of the table is the last position.
        position_N = torch.arange(-shown_BN.shape[1], 0, device=shown_BN.device) + len(self.position.weight)
        packing = laid_out(shown_BN)
        shown_RW = packing.pack(shown_BN, PADDING)
        position_RW = packing.pack(position_N.expand_as(shown_BN), 0)
        x_RWD = self.input_layer(embed_items(self.item, shown_RW), self.position(position_RW))
        x_RWD = self.transformer(x_RWD, packing.visible(causal=False))
        user_RWD = self.represent(self.projection_norm(gelu(self.projection(x_RWD))))
        user_RWD = user_RWD.masked_fill((shown_RW != self.mask)[..., None], 0.0)
        return packing.unpack(user_RWD)[:, -width:]

    def cloze(
        self, sequence_BN: torch.Tensor, targets: int, rng: RowRng
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows with some items masked, and these items, `[B, N]` both.

        Half the rows hide only their last item, as evaluation does (section 3.6 of the paper; a half is
        RecBole's share). The others hide each item with probability `mask_share`, and at least one.
        """
        real_BN = sequence_BN != PADDING
        drawn_BN = rng.integers(_DRAWN, sequence_BN.shape[1]).masked_fill(~real_BN, _DRAWN)
        # The smallest number always hides its item, so that at least one is hidden.
        hidden_BN = drawn_BN <= drawn_BN.amin(1, keepdim=True).clamp_min(int(self.mask_share * _DRAWN))
        last_BN = torch.zeros_like(hidden_BN)
        last_BN[:, -1] = True
        last_only_B1 = rng.integers(_DRAWN, 1, stream=1) < _LAST_ONLY * _DRAWN
        hidden_BN = torch.where(last_only_B1, last_BN, hidden_BN) & real_BN
        return sequence_BN.masked_fill(hidden_BN, self.mask), sequence_BN.masked_fill(~hidden_BN, PADDING)


COMPONENT = sequential_component(
    "bert4rec", BERT4RecSettings, BERT4Rec, check=heads_divide, layer_weights=12, layer_activations=9
)
