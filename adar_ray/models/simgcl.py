"""SimGCL: LightGCN that also tells a node's two noisy views from those of other nodes.

Legend: U users, I items, N = U + I nodes, B rows of the batch held here, A rows of the batches of all
workers, V different nodes among B, W among A, D dimensions.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, normalize

from adar_ray.distributed import gather_rows
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import smooth
from adar_ray.models.lightgcn import LightGCN
from adar_ray.rng import RowRng


class SimGCL(LightGCN):
    """Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation"
    (SIGIR 2022).

    As in the authors' code, SELFRec, and unlike LightGCN, a representation is the mean over layers 1 to L:
    a node without interactions has none but zeros.

    Args:
        observed: the training interactions, which are the graph's edges.
        dim: D.
        layers: L.
        eps: length of the noise added to every node after every layer.
        weight: of the loss between views, lambda.
        temperature: divides the cosines between views, tau.
        cosine: representations have length one, so that the score is the cosine.
    """

    def __init__(
        self,
        observed: UserItems,
        dim: int = 64,
        layers: int = 2,
        eps: float = 0.1,
        weight: float = 0.2,
        temperature: float = 0.2,
        cosine: bool = False,
    ) -> None:
        super().__init__(observed, dim, layers, cosine)
        self.eps, self.weight, self.temperature = eps, weight, temperature

    def propagate(self, table_ND: torch.Tensor, noise: torch.Generator | None = None) -> list[torch.Tensor]:
        """Layers 1 to L; with noise, uniform and of each vector's own signs (section 3.1)."""
        layers, vector_ND = [], table_ND
        for _ in range(self.layers):
            vector_ND = smooth(self.graph, vector_ND)
            if noise is not None:
                uniform_ND = torch.rand(vector_ND.shape, generator=noise, device=noise.device)
                vector_ND = vector_ND + self.eps * vector_ND.sign() * normalize(uniform_ND, dim=1)
            layers.append(vector_ND)
        return layers

    def auxiliary_loss(
        self, batch: dict[str, torch.Tensor], item_B: torch.Tensor, rng: RowRng
    ) -> torch.Tensor:
        """`[B]`: the rows' shares of `weight` times the InfoNCE (eq. 2) of users plus that of items.

        Each InfoNCE is a mean over the different nodes of the whole batch, as in the authors' code, where
        the paper writes a sum. Shares are scaled by A, so that their mean over the whole batch, which the
        training loop minimizes, is this loss.
        """
        table_ND = self.embedding.weight
        noise = torch.Generator(table_ND.device).manual_seed(int(rng.shared_integers(2**31, 1)))
        first_ND, second_ND = (self.combine(self.propagate(table_ND, noise)) for _ in range(2))
        user_B = self._contrast(first_ND, second_ND, batch["user"])
        return self.weight * (user_B + self._contrast(first_ND, second_ND, item_B + self.n_users))

    def _contrast(
        self, first_ND: torch.Tensor, second_ND: torch.Tensor, node_B: torch.Tensor
    ) -> torch.Tensor:
        """`[B]`: A times each row's share of the mean over W; rows of one node share its term equally."""
        node_A = gather_rows(node_B)
        node_W, count_W = torch.unique(node_A, return_counts=True)
        node_V, row_B = torch.unique(node_B, return_inverse=True)
        place_V = torch.searchsorted(node_W, node_V)
        cosine_VW = normalize(first_ND[node_V], dim=1) @ normalize(second_ND[node_W], dim=1).T
        term_V = cross_entropy(cosine_VW / self.temperature, place_V, reduction="none")
        scale = len(node_A) / max(len(node_W), 1)  # a batch may be empty
        return (scale * term_V / count_W[place_V])[row_B]
