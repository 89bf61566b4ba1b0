"""SimGCL: LightGCN that also tells a node's two noisy views from those of other nodes.

Legend: U users, I items, N = U + I nodes, B rows of the batch held here, A rows of the batches of all
workers, V different nodes among B, W among A, D dimensions.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, normalize

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.distributed import gather_rows
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import MeanGraphModel, smooth
from adar_ray.rng import RowRng


class SimGCLSettings(Settings):
    """SimGCL (Yu et al., SIGIR 2022): LightGCN with a contrastive loss between noisy views."""

    layers: int = setting(
        2, "Steps over the graph.", search={"integer": [1, 4]}, structural=True, ge=1, le=64
    )
    noise: float = setting(
        0.1,
        "Length of the noise in a view, added after every step.",
        search={"loguniform": [0.03, 0.3]},
        ge=0,
    )
    contrast: float = setting(
        0.2, "Weight of the loss between views.", search={"loguniform": [0.02, 1.0]}, ge=0
    )
    temperature: float = setting(
        0.2, "Divides the cosines between views.", search={"loguniform": [0.05, 1.0]}, gt=0
    )


class SimGCL(MeanGraphModel):
    """Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation"
    (SIGIR 2022).

    As in the authors' code, SELFRec, and unlike LightGCN, a representation is the mean over layers 1 to L:
    a node without interactions has none but zeros.

    Args:
        observed: the training interactions, which are the graph's edges.
        embedding_dim: D.
        settings: `noise` is the paper's epsilon, `contrast` its lambda, `temperature` its tau.
        cosine: score by the cosine: representations have length one.
    """

    def __init__(
        self,
        observed: UserItems,
        embedding_dim: int,
        settings: SimGCLSettings = SimGCLSettings(),
        cosine: bool = False,
    ) -> None:
        super().__init__(observed, embedding_dim, settings.layers, cosine)
        self.noise, self.contrast = settings.noise, settings.contrast
        self.temperature = settings.temperature

    def propagate(
        self, table_ND: torch.Tensor, generator: torch.Generator | None = None
    ) -> list[torch.Tensor]:
        """Layers 1 to L. A generator adds noise that is uniform and has each vector's signs (section 3.1)."""
        layers, vector_ND = [], table_ND
        for _ in range(self.layers):
            vector_ND = smooth(self.graph, vector_ND)
            if generator is not None:
                uniform_ND = torch.rand(vector_ND.shape, generator=generator, device=generator.device)
                vector_ND = vector_ND + self.noise * vector_ND.sign() * normalize(uniform_ND, dim=1)
            layers.append(vector_ND)
        return layers

    def auxiliary_loss(
        self, batch: dict[str, torch.Tensor], item_B: torch.Tensor, rng: RowRng
    ) -> torch.Tensor:
        """`[B]`: the rows' shares of `contrast` times the InfoNCE (eq. 2) of users plus that of items.

        Each InfoNCE is a mean over the different nodes of the whole batch, as in the authors' code, where
        the paper writes a sum. Shares are scaled by A, so that their mean over the whole batch, which the
        training loop minimizes, is this loss.
        """
        table_ND = self.embedding.weight
        generator = torch.Generator(table_ND.device).manual_seed(int(rng.shared_integers(2**31, 1)))
        first_ND, second_ND = (self.combine(self.propagate(table_ND, generator)) for _ in range(2))
        user_B = self._contrast(first_ND, second_ND, batch["user"])
        return self.contrast * (user_B + self._contrast(first_ND, second_ND, item_B + self.n_users))

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


COMPONENT = ModelComponent(
    name="simgcl",
    settings=SimGCLSettings,
    build=lambda inputs, settings: SimGCL(inputs.observed, inputs.embedding_dim, settings, inputs.cosine),
)
