"""The graph of interactions, one step of smoothing over it, and what graph models share.

Legend: U users, I items, N = U + I nodes, B rows of the batch, K items per row, H layers
that are averaged, D dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from adar_ray.distributed import sum_over_workers, world_size
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.user_tables import Draw


class Graph:
    """`D^-1/2 A D^-1/2` over this worker's users and all items (LightGCN, eq. 8), by rows.

    The edges are those of the worker's users; what items get from users, workers add up.

    Args:
        observed: the training interactions of this worker's users.
    """

    def __init__(self, observed: UserItems) -> None:
        self.n_users = observed.n_users
        user_E, item_E = observed.pairs()
        user_U, item_I = observed.counts().float(), observed.item_counts().float()
        sum_over_workers([item_I])
        weight_E = (user_U[user_E] * item_I[item_E]).rsqrt()
        by_item_E = torch.argsort(item_E, stable=True)
        # Rows of users, whose neighbors are items, then rows of items, whose neighbors are users.
        neighbors = torch.cat([item_E + observed.n_users, user_E[by_item_E]])
        counts = torch.cat([observed.counts(), observed.item_counts()])
        self.start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        self.neighbor, self.weight = neighbors, torch.cat([weight_E, weight_E[by_item_E]])

    def apply(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Moves or converts the tensors, as the module does that it belongs to."""
        self.start, self.neighbor, self.weight = fn(self.start), fn(self.neighbor), fn(self.weight)

    def product(self, vector_ND: torch.Tensor) -> torch.Tensor:
        """The graph times vectors, with the part of this worker's users in what items get."""
        if vector_ND.device.type != "cpu":
            nodes = len(self.start) - 1
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse")  # that it is in beta
                matrix = torch.sparse_csr_tensor(self.start, self.neighbor, self.weight, (nodes, nodes))
            return torch.sparse.mm(matrix, vector_ND)
        # A row of the product is a weighted sum of vectors, which is what torch calls an embedding bag: the
        # same sums from a kernel several times as fast as that of the sparse product.
        return embedding_bag(
            self.neighbor,
            vector_ND.contiguous(),
            self.start,
            mode="sum",
            per_sample_weights=self.weight,
            include_last_offset=True,
        )


def smooth(graph: Graph, vector_ND: torch.Tensor) -> torch.Tensor:
    """Each node's mean of its neighbors' vectors, as the normalized graph weighs them: `[U + I, D]`."""
    return _Smooth.apply(graph, vector_ND)


class _Smooth(torch.autograd.Function):
    """A symmetric matrix is its own transpose; torch would transpose it again in every backward pass,
    which takes longer than the product.

    A worker has its part of what items get from users, and their sum over workers is what all of them see.
    The gradient of a sum over workers is the sum of the workers' gradients.
    """

    @staticmethod
    def forward(ctx: Any, graph: Graph, vector_ND: torch.Tensor) -> torch.Tensor:
        ctx.graph = graph
        smoothed_ND = graph.product(vector_ND)
        sum_over_workers([smoothed_ND[graph.n_users :]])
        return smoothed_ND

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_ND: torch.Tensor) -> tuple[None, torch.Tensor]:
        graph = ctx.graph
        if world_size() > 1:
            gradient_ND = gradient_ND.clone()
            sum_over_workers([gradient_ND[graph.n_users :]])
        return None, graph.product(gradient_ND)


class GraphModel(DotProductModel):
    """A vector per node, and representations made of them by propagation over the graph.

    A model says with `propagate` what the layers are and with `combine` how they make a representation. Every
    look-up propagates all nodes. Whoever makes several takes a `snapshot`, which propagates once.

    Args:
        observed: the training interactions of this worker's users, which are its edges of the graph.
        embedding_dim: D.
        layers: how many steps vectors take over the graph.
        cosine: score by the cosine: representations have length one.
    """

    def __init__(self, observed: UserItems, embedding_dim: int, layers: int, cosine: bool = False) -> None:
        super().__init__(cosine)
        self.n_users, self.n_items = observed.n_users, observed.n_items
        self.layers = layers
        # Propagation gives every row a gradient, so none of them is a `Table`. Users come from a generator of
        # their own: what a model draws afterwards must not depend on how many users it has.
        users = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
        self.item, self.user = _table(self.n_items, embedding_dim), _table(self.n_users, embedding_dim, users)
        self.graph = Graph(observed)  # derived from the data set, hence not part of the weights

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        return {"user.weight": lambda rows, n_users, generator: _draw(rows, generator)}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> GraphModel:
        moved = super()._apply(fn, recurse)
        self.graph.apply(fn)
        return moved

    def table(self) -> torch.Tensor:
        """The vectors of all nodes, `[U + I, D]`."""
        return torch.cat([self.user.weight, self.item.weight])

    def propagate(self, table_ND: torch.Tensor) -> list[torch.Tensor]:
        """The layers that a representation is made of, each `[N, ...]`, from the table's vectors."""
        raise NotImplementedError

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        """Representations `[N, ...]` before the cosine brings them to length one."""
        raise NotImplementedError

    def snapshot(self) -> PropagatedGraph:
        layers = self.propagate(self.table())
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
        return self.user(batch["user"]), self.item(item)


def _table(rows: int, dim: int, generator: torch.Generator | None = None) -> nn.Embedding:
    weight = torch.empty(rows, dim)
    _draw(weight, generator)
    return nn.Embedding.from_pretrained(weight, freeze=False)


def _draw(rows: torch.Tensor, generator: torch.Generator | None = None) -> None:
    rows.normal_(std=0.1, generator=generator)


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
