"""LightGCN: vectors smoothed over the graph of who interacted with what.

Legend: U users, I items, N = U + I nodes, H layers that are averaged, D dimensions.
"""

from __future__ import annotations

import torch

from adar_ray.models.graph import GraphModel, smooth


class LightGCN(GraphModel):
    """He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    (SIGIR 2020): the mean over layers 0 to L of `A^l E`, with A the symmetrically normalized graph
    (eq. 3 and 4).

    Args:
        observed: the training interactions, which are the graph's edges.
        dim: D.
        layers: L.
        cosine: representations have length one, so that the score is the cosine.
    """

    def propagate(self, table_ND: torch.Tensor) -> list[torch.Tensor]:
        layers = [table_ND]
        for _ in range(self.layers):
            layers.append(smooth(self.graph, layers[-1]))
        return layers

    def combine(self, layers: list[torch.Tensor]) -> torch.Tensor:
        return sum(layers) / len(layers)

    def item_layers(self, item: torch.Tensor) -> torch.Tensor:
        """`[..., H, D]`: the layers that are averaged, whose mean is `items(item)`.

        With the cosine each is divided by the length of their mean, so that this holds as well.
        """
        layers, vectors = self._propagated()
        node = item + self.n_users
        layer = torch.stack([layer[node] for layer in layers], -2)
        if not self.cosine:
            return layer
        return layer / vectors[node].norm(dim=-1).clamp_min(1e-12)[..., None, None]
