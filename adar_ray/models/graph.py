"""The graph of interactions, one step of smoothing over it, and what graph models share.

Legend: U users, I items, B rows of the batch, K items per row, H layers that are averaged, D dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import embedding, embedding_bag

from adar_ray.distributed import sum_over_workers, world_size
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.user_tables import Draw


class Nodes(NamedTuple):
    """A vector for each node of the graph: for each of this worker's users, and for each item."""

    user_UD: torch.Tensor
    item_ID: torch.Tensor


class Graph:
    """`D^-1/2 A D^-1/2` over this worker's users and all items (LightGCN, eq. 8).

    The edges are those of the worker's users; what items get from users, workers add up.

    Args:
        observed: the training interactions of this worker's users.
    """

    def __init__(self, observed: UserItems) -> None:
        user_E, item_E = observed.pairs()
        user_U, item_I = observed.counts().float(), observed.item_counts().float()
        sum_over_workers([item_I])
        weight_E = (user_U[user_E] * item_I[item_E]).rsqrt()
        by_item_E = torch.argsort(item_E, stable=True)
        self.of_users = _Neighbors(observed.counts(), item_E, weight_E, observed.n_items)
        self.of_items = _Neighbors(
            observed.item_counts(), user_E[by_item_E], weight_E[by_item_E], observed.n_users
        )

    def apply(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Moves or converts the tensors, as the module does that it belongs to."""
        self.of_users.apply(fn)
        self.of_items.apply(fn)

    def product(self, nodes: Nodes) -> Nodes:
        """The graph times vectors, with the part of this worker's users in what items get."""
        return Nodes(self.of_users.sums(nodes.item_ID), self.of_items.sums(nodes.user_UD))


class _Neighbors:
    """The neighbors of some nodes, with the weights of the edges between them.

    Args:
        count: how many neighbors each node has.
        neighbor_E, weight_E: the neighbors of the first node, then those of the second, and so on.
        others: how many nodes neighbors are among.
    """

    def __init__(
        self, count: torch.Tensor, neighbor_E: torch.Tensor, weight_E: torch.Tensor, others: int
    ) -> None:
        self.start = torch.cat([count.new_zeros(1), count.cumsum(0)])
        self.neighbor_E, self.weight_E, self.others = neighbor_E, weight_E, others

    def apply(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.start, self.neighbor_E, self.weight_E = fn(self.start), fn(self.neighbor_E), fn(self.weight_E)

    def sums(self, vector: torch.Tensor) -> torch.Tensor:
        """For each node the weighted sum of its neighbors' vectors."""
        if vector.device.type != "cpu":
            shape = len(self.start) - 1, self.others
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse")  # that it is in beta
                matrix = torch.sparse_csr_tensor(self.start, self.neighbor_E, self.weight_E, shape)
            return torch.sparse.mm(matrix, vector)
        # A weighted sum of vectors is what torch calls an embedding bag: the same sums from a kernel several
        # times as fast as that of the sparse product.
        return embedding_bag(
            self.neighbor_E,
            vector.contiguous(),
            self.start,
            mode="sum",
            per_sample_weights=self.weight_E,
            include_last_offset=True,
        )


def smooth(graph: Graph, nodes: Nodes) -> Nodes:
    """Each node's mean of its neighbors' vectors, as the normalized graph weighs them."""
    return Nodes(*_Smooth.apply(graph, *nodes))


class _Smooth(torch.autograd.Function):
    """A symmetric matrix is its own transpose; torch would transpose it again in every backward pass,
    which takes longer than the product.

    A worker has its part of what items get from users, and their sum over workers is what all of them see.
    The gradient of a sum over workers is the sum of the workers' gradients.
    """

    @staticmethod
    def forward(ctx: Any, graph: Graph, user_UD: torch.Tensor, item_ID: torch.Tensor) -> Nodes:
        ctx.graph = graph
        return _smoothed(graph, Nodes(user_UD, item_ID))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, user_UD: torch.Tensor, item_ID: torch.Tensor
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        return None, *_smoothed_gradients(ctx.graph, Nodes(user_UD, item_ID))


def _smoothed(graph: Graph, nodes: Nodes) -> Nodes:
    smoothed = graph.product(nodes)
    sum_over_workers([smoothed.item_ID])
    return smoothed


def _smoothed_gradients(graph: Graph, gradients: Nodes) -> Nodes:
    """The gradients of what was smoothed from those of the result; of items, this worker's part."""
    if world_size() > 1:
        gradients = gradients._replace(item_ID=gradients.item_ID.clone())
        sum_over_workers([gradients.item_ID])
    return graph.product(gradients)


def mean_of_layers(graph: Graph, nodes: Nodes, layers: int, first: int) -> tuple[Nodes, list[torch.Tensor]]:
    """Smooths `layers` times; returns the mean of the layers from `first` on, and those of items, `[I, D]`.

    Layer 0 is what is smoothed.
    """
    user_UD, item_ID, *smoothed = _MeanOfLayers.apply(graph, layers, first, *nodes)
    return Nodes(user_UD, item_ID), [nodes.item_ID, *smoothed][first:]


class _MeanOfLayers(torch.autograd.Function):
    """One function for all layers: what autograd makes of their sum takes as long as the products."""

    @staticmethod
    def forward(
        ctx: Any, graph: Graph, layers: int, first: int, user_UD: torch.Tensor, item_ID: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.graph, ctx.layers, ctx.first = graph, layers, first
        ctx.save_for_backward(user_UD, item_ID)
        ctx.set_materialize_grads(False)
        layer, items = Nodes(user_UD, item_ID), []
        for _ in range(first):
            layer = _smoothed(graph, layer)
            items.append(layer.item_ID)
        total = Nodes(*(vector.clone() for vector in layer))
        for _ in range(first, layers):
            layer = _smoothed(graph, layer)
            items.append(layer.item_ID)
            for vector, more in zip(total, layer, strict=True):
                vector += more
        for vector in total:
            vector /= layers + 1 - first
        return *total, *items

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Horner's scheme: a layer's gradient is its share of the mean's and what the next one hands back."""
        rate = 1 / (ctx.layers + 1 - ctx.first)
        mean = [
            torch.zeros_like(vector) if gradient is None else gradient
            for vector, gradient in zip(ctx.saved_tensors, gradients, strict=False)
        ]
        total = Nodes(*(gradient * rate for gradient in mean))
        for number in range(ctx.layers, 0, -1):
            item_ID = gradients[1 + number]
            if item_ID is not None:
                total.item_ID.add_(item_ID)
            sum_over_workers([total.item_ID])
            total = ctx.graph.product(total)
            if number > ctx.first:
                for vector, gradient in zip(total, mean, strict=True):
                    vector.add_(gradient, alpha=rate)
        return None, None, None, *total


class GraphModel(DotProductModel):
    """A vector per node, and representations made of them by propagation over the graph.

    A model says with `snapshot` what representations are made of them. Every look-up takes one, and so
    propagates all nodes; to make several, take a snapshot once.

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
        self.graph = Graph(observed)  # derived from the dataset, hence not part of the weights

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        return {"user.weight": lambda rows, n_users, generator: _draw(rows, generator)}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> GraphModel:
        moved = super()._apply(fn, recurse)
        self.graph.apply(fn)
        return moved

    def nodes(self) -> Nodes:
        """The vectors of the tables."""
        return Nodes(self.user.weight, self.item.weight)

    def snapshot(self) -> PropagatedGraph:
        raise NotImplementedError

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.snapshot().users(batch)

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.snapshot().items(item)

    def ranking_items(self, item: torch.Tensor) -> torch.Tensor:
        return self.snapshot().ranking_items(item)

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

    Args:
        vectors: representations before the cosine brings them to length one.
    """

    scores_by_dot_product = True

    def __init__(self, model: GraphModel, vectors: Nodes) -> None:
        self.model, self.vectors = model, vectors

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.represent(embedding(batch["user"], self.vectors.user_UD))

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.model.represent(embedding(item, self.vectors.item_ID))

    def ranking_items(self, item: torch.Tensor) -> torch.Tensor:
        return self.model.represent_for_ranking(embedding(item, self.vectors.item_ID))

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return self.model.score(user_BD, item_BKD)

    def snapshot(self) -> PropagatedGraph:
        return self


class PropagatedMean(PropagatedGraph):
    """A propagated graph whose vectors are means of layers, which it also knows.

    Args:
        layers: of items, `[I, D]` each.
    """

    def __init__(self, model: GraphModel, vectors: Nodes, layers: list[torch.Tensor]) -> None:
        super().__init__(model, vectors)
        self.layers = layers

    def item_layers(self, item: torch.Tensor) -> torch.Tensor:
        """`[..., H, D]`: the layers that are averaged; their mean is `items(item)`.

        With the cosine each is divided by the length of their mean, so that this holds as well.
        """
        layer = torch.stack([embedding(item, layer_ID) for layer_ID in self.layers], -2)
        if not self.model.cosine:
            return layer
        return layer / embedding(item, self.vectors.item_ID).norm(dim=-1).clamp_min(1e-12)[..., None, None]
