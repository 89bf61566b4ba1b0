"""GRU4Rec: a recurrent network reads the history.

Legend: B rows of the batch, L positions of a history, K items a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from adar_ray.models.protocol import dot_score
from adar_ray.models.sequence import embed_items


class GRU4Rec(nn.Module):
    """Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016).

    As in RecBole's version of it, items enter as learned vectors instead of one-hot ones, the state is twice
    as wide as they are, and a dense layer leads from it back to D, where the same vectors are scored.
    Histories are rows of a batch: the paper's session-parallel batches are left out.

    The GRU has no biases. That keeps a state of zero at zero while the input is zero, so that padding,
    whose vector is zero, leaves no trace.

    Vectors start as Xavier normal, the GRU's matrices as Xavier uniform, the dense layer as torch has it.

    Args:
        n_items: size of the item table.
        length: L; any history will do, and the model has no parameter that depends on it.
        dim: D.
        layers: of the GRU.
        dropout: share of the entering vectors' elements that is dropped.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        dim: int = 64,
        layers: int = 1,
        dropout: float = 0.0,
        cosine: bool = False,
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.item = nn.Embedding(n_items, dim)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(dim, 2 * dim, layers, bias=False, batch_first=True)
        self.dense = nn.Linear(2 * dim, dim)
        nn.init.xavier_normal_(self.item.weight)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        state, _ = self.gru(self.dropout(embed_items(self.item, batch["history"])))
        user_BLD = self.dense(state)
        return normalize(user_BLD, dim=-1) if self.cosine else user_BLD

    def items(self, item: torch.Tensor) -> torch.Tensor:
        vector = self.item(item)
        return normalize(vector, dim=-1) if self.cosine else vector

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)
