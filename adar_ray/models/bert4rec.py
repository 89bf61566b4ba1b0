"""BERT4Rec: items hidden in a history are found from what stands before and after them.

Legend: B rows of the batch, L positions of a history, N = L + 1 positions that the model is shown, K items a
row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, normalize, pad

from adar_ray.interactions import PADDING
from adar_ray.models.protocol import dot_score
from adar_ray.models.sequence import InputLayer, Transformer, embed_items, initialize, visible_positions
from adar_ray.rng import RowRng

_LAST_ONLY = 0.5
_DRAWN = 1 << 30  # random integers are below this


class BERT4Rec(nn.Module):
    """Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer" (CIKM 2019).

    In training the history is what `cloze` gives. In evaluation it is followed by a mask, whose state is the
    user now. Only a mask's state may be compared with items, since any other knows its own item and those
    that come after it: `users` gives the zero vector there.

    Departures: the output layer (eq. 7) has no bias an item, since scores are dot products. Positions count
    from the end of the row: the mask that asks for the next item always has the same position, however
    short the history.

    Args:
        n_items: size of the catalog; the table has one row more, the mask's.
        length: L; a longer history is an error.
        dim: D, a multiple of `heads`.
        layers: blocks.
        heads: of the attention.
        dropout: of the entering vectors, of attention weights and of what each layer adds.
        mask_share: share of a history's positions hidden in training.
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
        mask_share: float = 0.2,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.mask, self.mask_share, self.cosine = n_items, mask_share, cosine
        self.item, self.position = nn.Embedding(n_items + 1, dim), nn.Embedding(length + 1, dim)
        self.input_layer = InputLayer(dim, dropout)
        self.transformer = Transformer(dim, layers, heads, dropout)
        self.projection, self.projection_norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps=1e-12)
        initialize(self)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        shown_BN = batch["history"]
        width = shown_BN.shape[1]
        if not self.training:
            shown_BN = pad(shown_BN, (0, 1), value=self.mask)
        position_ND = self.position.weight[-shown_BN.shape[1] :]
        x_BND = self.input_layer(embed_items(self.item, shown_BN), position_ND)
        x_BND = self.transformer(x_BND, visible_positions(shown_BN, causal=False))
        user_BND = self.projection_norm(gelu(self.projection(x_BND)))
        user_BND = normalize(user_BND, dim=-1) if self.cosine else user_BND
        return user_BND.masked_fill((shown_BN != self.mask)[..., None], 0.0)[:, -width:]

    def items(self, item: torch.Tensor) -> torch.Tensor:
        vector = self.item(item)
        return normalize(vector, dim=-1) if self.cosine else vector

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)

    def cloze(
        self, sequence_BN: torch.Tensor, targets: int, rng: RowRng
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows with some items behind masks, and these items, `[B, N]` both.

        Half the rows hide their last item alone, which is what evaluation asks for (section 3.6 of the paper;
        a half is RecBole's share). The others hide each item with probability `mask_share`, and at least one.
        """
        real_BN = sequence_BN != PADDING
        drawn_BN = rng.integers(_DRAWN, sequence_BN.shape[1]).masked_fill(~real_BN, _DRAWN)
        # The smallest number drawn hides its item whatever it is: where it is not below the share, none is.
        hidden_BN = drawn_BN <= drawn_BN.amin(1, keepdim=True).clamp_min(int(self.mask_share * _DRAWN))
        last_BN = torch.zeros_like(hidden_BN)
        last_BN[:, -1] = True
        last_only_B1 = rng.integers(_DRAWN, 1, stream=1) < _LAST_ONLY * _DRAWN
        hidden_BN = torch.where(last_only_B1, last_BN, hidden_BN) & real_BN
        return sequence_BN.masked_fill(hidden_BN, self.mask), sequence_BN.masked_fill(~hidden_BN, PADDING)
