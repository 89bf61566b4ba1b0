"""NGCF: messages between neighbors, transformed and multiplied by the receiver's vector.

Legend: L layers, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import dropout, leaky_relu, normalize

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import GraphModel, Nodes, PropagatedGraph, smooth

_SLOPE = 0.2  # below zero; that of TensorFlow, in which the authors' code is written


class NGCFSettings(Settings):
    """NGCF (Wang et al., SIGIR 2019): transformed messages between neighbors in the interaction graph."""

    layers: int = setting(
        2, "Steps over the graph.", search={"integer": [1, 4]}, structural=True, ge=1, le=64
    )
    dropout: float = setting(
        0.2,
        "Message dropout: share of each layer's numbers that is dropped.",
        search={"quantized": [0.0, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


class NGCF(GraphModel):
    """Wang et al., "Neural Graph Collaborative Filtering" (SIGIR 2019).

    Layer l is `LeakyReLU((A + 1) E W1 + (A E * E) W2)` of layer l - 1, with A the symmetrically normalized
    graph (eq. 7 and 8). A representation is all layers end to end, `(L + 1) D` numbers (eq. 9), of which
    those from 1 on have length one each, as in the authors' code.

    Left out is node dropout, which the paper puts beside message dropout.

    Args:
        observed: the training interactions, which are the graph's edges.
        embedding_dim: D, of every layer.
        cosine: score by the cosine: representations have length one.
    """

    def __init__(
        self,
        observed: UserItems,
        embedding_dim: int,
        settings: NGCFSettings = NGCFSettings(),
        cosine: bool = False,
    ) -> None:
        super().__init__(observed, embedding_dim, settings.layers, cosine)
        self.dropout = settings.dropout
        self.sums, self.products = (
            nn.ModuleList(nn.Linear(embedding_dim, embedding_dim, bias=False) for _ in range(self.layers))
            for _ in range(2)
        )
        for linear in [*self.sums, *self.products]:
            nn.init.xavier_uniform_(linear.weight)

    def snapshot(self) -> PropagatedGraph:
        nodes = self.nodes()
        layers = [nodes]
        for layer in range(self.layers):
            neighbors = smooth(self.graph, nodes)
            nodes = Nodes(*(self._passed_on(layer, *side) for side in zip(nodes, neighbors, strict=True)))
            layers.append(Nodes(*(normalize(vector, dim=1) for vector in nodes)))
        return PropagatedGraph(self, Nodes(*(torch.cat(side, dim=1) for side in zip(*layers, strict=True))))

    def _passed_on(self, layer: int, own: torch.Tensor, neighbors: torch.Tensor) -> torch.Tensor:
        message = self.sums[layer](neighbors + own) + self.products[layer](neighbors * own)
        passed = dropout(leaky_relu(message, _SLOPE), self.dropout, self.training)
        return passed.to(own.dtype)  # that of the graph's weights


COMPONENT = ModelComponent(
    name="ngcf",
    settings=NGCFSettings,
    build=lambda inputs, settings: NGCF(inputs.observed, inputs.embedding_dim, settings, inputs.cosine),
    is_graph=True,
    layer_weights=2,
)
