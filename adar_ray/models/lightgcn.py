"""LightGCN: vectors smoothed over the graph of who interacted with what.

Legend: U users, I items, B rows of the batch, K items a row, D dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import normalize

from adar_ray.models.graph import normalised_graph, smooth
from adar_ray.negatives import dot_score
from adar_ray.user_items import UserItems


class LightGCN(nn.Module):
    """He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    (SIGIR 2020): the mean over layers 0 to L of `A^l E`, with A the symmetrically normalised graph
    (eq. 3 and 4).

    Args:
        observed: the training interactions, which are the graph's edges.
        dim: D.
        layers: L.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(self, observed: UserItems, dim: int = 64, layers: int = 2, cosine: bool = False) -> None:
        super().__init__()
        self.n_users, self.n_items, self.layers, self.cosine = (
            observed.n_users,
            observed.n_items,
            layers,
            cosine,
        )
        self.embedding = nn.Embedding(self.n_users + self.n_items, dim)
        nn.init.normal_(self.embedding.weight, std=0.1)
        # Derived from the data set, hence not part of the weights.
        self.register_buffer("graph", normalised_graph(observed), persistent=False)
        self._propagated: tuple[tuple, torch.Tensor] | None = None

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._lookup(batch["user"])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self._lookup(item + self.n_users)

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)

    def l2_vectors(
        self, batch: dict[str, torch.Tensor], item: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The paper puts L2 on layer 0, the only parameters there are."""
        return self.embedding(batch["user"]), self.embedding(item + self.n_users)

    def _lookup(self, node: torch.Tensor) -> torch.Tensor:
        vector = self._propagate()[node]
        return normalize(vector, dim=-1) if self.cosine else vector

    def _propagate(self) -> torch.Tensor:
        """All nodes' representations `[U + I, D]`, computed once a step however often they are looked up."""
        weight = self.embedding.weight
        state = (weight._version, torch.is_grad_enabled(), weight.device, weight.data_ptr())
        if self._propagated is None or self._propagated[0] != state:
            layer = total = weight
            for _ in range(self.layers):
                layer = smooth(self.graph, layer)
                total = total + layer
            mean = total / (self.layers + 1)
            if mean.requires_grad:
                # A backward pass uses up the vectors' autograd graph: they are of no use after it.
                mean.register_hook(self._forget_propagated)
            elif self.training:
                # A fused optimiser changes the weights without raising their version: only vectors that
                # a backward pass, or the change to evaluation mode and back, clears away may be kept.
                return mean
            self._propagated = (state, mean)
        return self._propagated[1]

    def train(self, mode: bool = True) -> LightGCN:
        self._propagated = None
        return super().train(mode)

    def _forget_propagated(self, _gradient: torch.Tensor) -> None:
        self._propagated = None
