"""NGCF: messages between neighbors, transformed and multiplied with who receives them.

Legend: U users, I items, N = U + I nodes, L layers, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import dropout, leaky_relu, normalize

from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import GraphModel, smooth

_SLOPE = 0.2  # below zero; that of TensorFlow, in which the authors' code is written


class NGCF(GraphModel):
    """Wang et al., "Neural Graph Collaborative Filtering" (SIGIR 2019).

    Layer l is `LeakyReLU((A + 1) E W1 + (A E * E) W2)` of layer l - 1, with A the symmetrically normalized
    graph (eq. 7 and 8). A representation is all layers end to end, `(L + 1) D` numbers (eq. 9), of which
    those from 1 on have length one each, as in the authors' code.

    Left out is node dropout, which the paper puts beside message dropout.

    Args:
        observed: the training interactions, which are the graph's edges.
        dim: D, of every layer.
        layers: L.
        dropout: message dropout, the share of each layer's numbers that is dropped.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(
        self,
        observed: UserItems,
        dim: int = 64,
        layers: int = 2,
        dropout: float = 0.0,
        cosine: bool = False,
    ) -> None:
        super().__init__(observed, dim, layers, cosine)
        self.dropout = dropout
        self.sums = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(layers))
        self.products = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(layers))
        for linear in [*self.sums, *self.products]:
            nn.init.xavier_uniform_(linear.weight)

    def propagate(self, table_ND: torch.Tensor) -> list[torch.Tensor]:
        layers, vector_ND = [table_ND], table_ND
        for sum_, product in zip(self.sums, self.products, strict=True):
            neighbors_ND = smooth(self.graph, vector_ND)
            message_ND = sum_(neighbors_ND + vector_ND) + product(neighbors_ND * vector_ND)
            vector_ND = dropout(leaky_relu(message_ND, _SLOPE), self.dropout, self.training)
            layers.append(normalize(vector_ND, dim=1))
        return layers

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(layers, dim=1)
