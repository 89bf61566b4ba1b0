"""GRU4Rec: a recurrent network reads the history.

Legend: B rows of the batch, L positions of a history, K items per row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.sequence import BATCH_SIZE, embed_items, shown_positions


class GRU4RecSettings(Settings):
    """GRU4Rec (Hidasi et al., ICLR 2016): a recurrent network reads the history."""

    layers: int = setting(2, "Layers of the GRU.", search={"integer": [1, 4]}, structural=True, ge=1, le=64)
    dropout: float = setting(
        0.2,
        "Share of the elements of input vectors that is dropped.",
        search={"quantized": [0.1, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


class GRU4Rec(DotProductModel):
    """Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks" (ICLR 2016).

    As in RecBole's version, items enter as learned vectors instead of one-hot ones, the state is twice as
    wide, and a dense layer leads from it back to D, where the same vectors are scored. Histories are rows of
    a batch; the paper's session-parallel batches are left out.

    The GRU has no biases. A zero state stays zero while the input is zero, so that padding leaves no trace.

    Vectors start as Xavier normal, the GRU's matrices as Xavier uniform, the dense layer with torch's
    default.

    Args:
        n_items: size of the item table.
        length: L; no parameter depends on it, and any history will do.
        embedding_dim: D.
        cosine: score by the cosine: representations have length one.
    """

    def __init__(
        self,
        n_items: int,
        length: int,
        embedding_dim: int,
        settings: GRU4RecSettings = GRU4RecSettings(),
        cosine: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.item = nn.Embedding(n_items, embedding_dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = nn.GRU(embedding_dim, 2 * embedding_dim, settings.layers, bias=False, batch_first=True)
        self.dense = nn.Linear(2 * embedding_dim, embedding_dim)
        nn.init.xavier_normal_(self.item.weight)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        item_BL = batch["history"]
        shown_BL = shown_positions(item_BL)
        length_B = shown_BL.sum(1)
        # torch's packing: the first positions of all histories, the longest history first, then the second ones.
        of_B = length_B.argsort(descending=True, stable=True)
        step_N, rank_N = (torch.arange(item_BL.shape[1], device=of_B.device)[:, None] < length_B[of_B]).nonzero(as_tuple=True)
        of_N = of_B[rank_N]
        at_N = item_BL.shape[1] - length_B[of_N] + step_N
        x_ND = self.dropout(embed_items(self.item, item_BL[of_N, at_N]))
        state, _ = self.gru(PackedSequence(x_ND, step_N.bincount().cpu()))
        user_BLD = x_ND.new_zeros(*item_BL.shape, x_ND.shape[1])
        user_BLD[of_N, at_N] = self.represent(self.dense(state.data))
        return user_BLD


COMPONENT = ModelComponent(
    name="gru4rec",
    settings=GRU4RecSettings,
    build=lambda inputs, settings: GRU4Rec(
        inputs.observed.n_items, inputs.history_length, inputs.embedding_dim, settings, inputs.cosine
    ),
    is_sequential=True,
    defaults={"train.batch_size": BATCH_SIZE, "loss.name": "sampled_softmax"},
)
