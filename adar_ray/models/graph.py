"""The graph of interactions, one step of smoothing over it, and what graph models share.

Legend: U users, I items, N = U + I nodes, B rows of the batch, K items per row, H layers
that are averaged, D dimensions.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from adar_ray.interactions.user_items import UserItems
from adar_ray.models.dot_product import DotProductModel


def normalized_graph(observed: UserItems) -> torch.Tensor:
    """`D^-1/2 A D^-1/2` over users and items as a sparse matrix `[U + I, U + I]` (LightGCN, eq. 8)."""
    user_E, item_E = observed.pairs()
    item_E = item_E + observed.n_users
    row, column = torch.cat([user_E, item_E]), torch.cat([item_E, user_E])
    nodes = observed.n_users + observed.n_items
    degree = torch.bincount(row, minlength=nodes).clamp_min(1).to(torch.float32)
    value = (degree[row] * degree[column]).rsqrt()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # that it is in beta, and that input is unchecked
        graph = torch.sparse_coo_tensor(torch.stack([row, column]), value, (nodes, nodes))
        return graph.coalesce().to_sparse_csr()


def smooth(graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Each node's mean of its neighbors' vectors, as the normalized graph weighs them: `[U + I, D]`."""
    return _SymmetricProduct.apply(graph, vector)


class _SymmetricProduct(torch.autograd.Function):
    """A symmetric matrix is its own transpose; torch would transpose it again in every backward pass,
    which takes longer than the product."""

    @staticmethod
    def forward(ctx: Any, graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        return _product(graph, vector)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, _product(ctx.graph, gradient)


def _product(graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    if vector.device.type != "cpu":
        return torch.sparse.mm(graph, vector)
    # A row of the product is a weighted sum of vectors, which is what torch calls an embedding bag: the same
    # sums from a kernel several times as fast as that of the sparse product.
    return embedding_bag(
        graph.col_indices(),
        vector.contiguous(),
        graph.crow_indices(),
        mode="sum",
        per_sample_weights=graph.values(),
        include_last_offset=True,
    )


class GraphModel(DotProductModel):
    """A table with a vector per node, and representations made of it by propagation over the graph.

    A model says with `propagate` what the layers are and with `combine` how they make a representation. Every
    look-up propagates all nodes. Whoever makes several takes a `snapshot`, which propagates once.

    Args:
        observed: the training interactions, which are the graph's edges.
        embedding_dim: D.
        layers: how many steps vectors take over the graph.
        cosine: score by the cosine: representations have length one.
    """

    graph: torch.Tensor

    def __init__(self, observed: UserItems, embedding_dim: int, layers: int, cosine: bool = False) -> None:
        super().__init__(cosine)
        self.n_users, self.n_items = observed.n_users, observed.n_items
        self.layers = layers
        self.embedding = nn.Embedding(self.n_users + self.n_items, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        # Derived from the data set, hence not part of the weights.
        self.register_buffer("graph", normalized_graph(observed), persistent=False)

    def propagate(self, table_ND: torch.Tensor) -> list[torch.Tensor]:
        """The layers that a representation is made of, each `[N, ...]`, from the table's vectors."""
        raise NotImplementedError

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """Representations `[N, ...]` before the cosine brings them to length one."""
        raise NotImplementedError

    def snapshot(self) -> PropagatedGraph:
        # One view for all layers: their gradients add up before the penalty's join them, whatever the order.
        layers = self.propagate(self.embedding.weight.view_as(self.embedding.weight))
        return self._propagated(layers, self.combine(layers))

    def _propagated(self, layers: list[torch.Tensor], vector_N: torch.Tensor) -> PropagatedGraph:
        return PropagatedGraph(self, layers, vector_N)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.snapshot().users(batch)

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.snapshot().items(item)

    def l2_vectors(
        self, batch: dict[str, torch.Tensor], item: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The table's rows, as in LightGCN's paper, where they are the only parameters."""
        return self.embedding(batch["user"]), self.embedding(item + self.n_users)


class PropagatedGraph:
    """A graph model whose nodes have been propagated: look-ups read the result.

    Attributes:
        layers: what `propagate` gave.
        vector_N: what `combine` made of it.
    """

    scores_by_dot_product = True

    def __init__(self, model: GraphModel, layers: list[torch.Tensor], vector_N: torch.Tensor) -> None:
        self.model, self.layers, self.vector_N = model, layers, vector_N

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.represent(self.vector_N[batch["user"]])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.model.represent(self.vector_N[item + self.model.n_users])

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return self.model.score(user_BD, item_BKD)

    def snapshot(self) -> PropagatedGraph:
        return self


class MeanGraphModel(GraphModel):
    """A graph model whose representations are means over layers."""

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        total = layers[0]
        for layer in layers[1:]:
            total = total + layer
        return total / len(layers)

    def _propagated(self, layers: list[torch.Tensor], vector_N: torch.Tensor) -> PropagatedMean:
        return PropagatedMean(self, layers, vector_N)


class PropagatedMean(PropagatedGraph):
    """A propagated graph that also knows each layer that goes into a mean."""

    def item_layers(self, item: torch.Tensor) -> torch.Tensor:
        """`[..., H, D]`: the layers that are averaged; their mean is `items(item)`.

        With the cosine each is divided by the length of their mean, so that this holds as well.
        """
        node = item + self.model.n_users
        layer = torch.stack([layer[node] for layer in self.layers], -2)
        if not self.model.cosine:
            return layer
        return layer / self.vector_N[node].norm(dim=-1).clamp_min(1e-12)[..., None, None]
