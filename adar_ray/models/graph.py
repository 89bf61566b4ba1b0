"""The graph of who interacted with what, one step of smoothing over it, and what graph models share.

Legend: U users, I items, N = U + I nodes, B rows of the batch, K items a row, D dimensions.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.functional import embedding_bag, normalize

from adar_ray.interactions.user_items import UserItems
from adar_ray.models.protocol import dot_score


def normalized_graph(observed: UserItems) -> torch.Tensor:
    """`D^-1/2 A D^-1/2` over users and items as a sparse matrix `[U + I, U + I]` (LightGCN, eq. 8)."""
    user_E, item_E = observed.pairs()
    item_E = item_E + observed.n_users
    row, column = torch.cat([user_E, item_E]), torch.cat([item_E, user_E])
    nodes = observed.n_users + observed.n_items
    degree = torch.bincount(row, minlength=nodes).clamp_min(1).to(torch.float32)
    value = (degree[row] * degree[column]).rsqrt()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # of being in beta, and of unchecked input
        graph = torch.sparse_coo_tensor(torch.stack([row, column]), value, (nodes, nodes))
        return graph.coalesce().to_sparse_csr()


def smooth(graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Each node's mean of its neighbors' vectors, as the normalized graph weighs them: `[U + I, D]`."""
    return _SymmetricProduct.apply(graph, vector)


class _SymmetricProduct(torch.autograd.Function):
    """A symmetric matrix is its own transpose; torch would transpose it again in every backward pass,
    which takes longer than the product."""

    @staticmethod
    def forward(ctx, graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        return _product(graph, vector)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
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


class GraphModel(nn.Module):
    """A table with a vector a node, and representations made of it by propagation over the graph.

    A model says with `propagate` what the layers are and with `combine` how they make a representation.
    All nodes are propagated once a step, however often they are looked up.

    Args:
        observed: the training interactions, which are the graph's edges.
        dim: D.
        layers: how many steps vectors take over the graph.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(self, observed: UserItems, dim: int = 64, layers: int = 2, cosine: bool = False) -> None:
        super().__init__()
        self.n_users, self.n_items = observed.n_users, observed.n_items
        self.layers, self.cosine = layers, cosine
        self.embedding = nn.Embedding(self.n_users + self.n_items, dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        # Derived from the data set, hence not part of the weights.
        self.register_buffer("graph", normalized_graph(observed), persistent=False)
        self._kept: tuple[tuple, list[torch.Tensor], torch.Tensor] | None = None

    def propagate(self, table_ND: torch.Tensor) -> list[torch.Tensor]:
        """The layers that a representation is made of, each `[N, ...]`, from the table's vectors."""
        raise NotImplementedError

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """Representations `[N, ...]` before they are brought to length one for the cosine."""
        raise NotImplementedError

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._lookup(batch["user"])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self._lookup(item + self.n_users)

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)

    def l2_vectors(
        self, batch: dict[str, torch.Tensor], item: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The table's rows, as in LightGCN's paper, where they are the only parameters there are."""
        return self.embedding(batch["user"]), self.embedding(item + self.n_users)

    def _lookup(self, node: torch.Tensor) -> torch.Tensor:
        vector = self._propagated()[1][node]
        return normalize(vector, dim=-1) if self.cosine else vector

    def _propagated(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """All nodes' layers and representations, as of the present weights."""
        state = tuple((p._version, p.device, p.data_ptr()) for p in self.parameters())
        gradient = torch.is_grad_enabled()
        # Vectors with gradients serve those who ask for none, and not the other way round.
        if self._kept and self._kept[0] in ((state, True), (state, gradient)):
            return self._kept[1:]
        table = self.embedding.weight
        table = table.view_as(table)  # all gradients pass here, and the hook is not the parameter's
        layers = self.propagate(table)
        vectors = self.combine(layers)
        if gradient and table.requires_grad:
            # A backward pass uses up the vectors' autograd graph: they are of no use after it.
            table.register_hook(self._forget)
        elif self.training:
            # A fused optimizer changes the weights without raising their version: only vectors that
            # a backward pass, or the change to evaluation mode and back, clears away may be kept.
            return layers, vectors
        self._kept = ((state, gradient), layers, vectors)
        return layers, vectors

    def train(self, mode: bool = True) -> GraphModel:
        self._kept = None
        return super().train(mode)

    def _forget(self, _gradient: torch.Tensor) -> None:
        self._kept = None
