"""The graph of who interacted with what, and one step of smoothing over it.

Legend: U users, I items, D dimensions.
"""

from __future__ import annotations

import warnings

import torch

from adar_ray.user_items import UserItems


def normalised_graph(observed: UserItems) -> torch.Tensor:
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
    """Each node's mean of its neighbours' vectors, as the normalised graph weighs them: `[U + I, D]`."""
    return _SymmetricProduct.apply(graph, vector)


class _SymmetricProduct(torch.autograd.Function):
    """A symmetric matrix is its own transpose; torch would transpose it again in every backward pass,
    which takes longer than the product."""

    @staticmethod
    def forward(ctx, graph: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        return torch.sparse.mm(graph, vector)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.sparse.mm(ctx.graph, gradient)
