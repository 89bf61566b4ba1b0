"""SimGCL: LightGCN that also tells a node's two noisy views from those of other nodes.

Legend: B rows of the batch held here, A rows of the batches of all workers, N nodes that are users or items,
V different ones among B, W among A, D dimensions.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, normalize

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.distributed import gather_rows, gather_rows_with_gradients
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import GraphModel, Nodes, PropagatedMean, mean_of_layers, smooth
from adar_ray.rng import RowRng, uniform_numbers

_ITEMS = 1 << 40  # items' noise lies this far from that of users


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
        le=1e6,
    )
    contrast: float = setting(
        0.2, "Weight of the loss between views.", search={"loguniform": [0.02, 1.0]}, ge=0, le=1e6
    )
    temperature: float = setting(
        0.2, "Divides the cosines between views.", search={"loguniform": [0.05, 1.0]}, gt=0, le=1e6
    )


class SimGCL(GraphModel):
    """Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation"
    (SIGIR 2022).

    As in the authors' code, SELFRec, and unlike LightGCN, a representation is the mean over layers 1 to L:
    a node without interactions has none but zeros.

    Args:
        observed: the training interactions, which are the graph's edges.
        embedding_dim: D.
        settings: `noise` is the paper's epsilon, `contrast` its lambda, `temperature` its tau.
        cosine: score by the cosine: representations have length one.
        first_user: the user that has id 0 here.
    """

    def __init__(
        self,
        observed: UserItems,
        embedding_dim: int,
        settings: SimGCLSettings = SimGCLSettings(),
        cosine: bool = False,
        first_user: int = 0,
    ) -> None:
        super().__init__(observed, embedding_dim, settings.layers, cosine)
        self.first_user = first_user
        self.noise, self.contrast = settings.noise, settings.contrast
        self.temperature = settings.temperature

    def snapshot(self) -> PropagatedMean:
        return PropagatedMean(self, *mean_of_layers(self.graph, self.nodes(), self.layers, first=1))

    def view(self, rngs: tuple[RowRng, RowRng], number: int) -> Nodes:
        """A view: the mean of layers 1 to L, each with noise that is uniform and has its signs (section 3.1).

        Args:
            rngs: random numbers of the users' noise, and of the items'.
        """
        layers, nodes = [], self.nodes()
        for layer in range(self.layers):
            stream = number * self.layers + layer
            smoothed = smooth(self.graph, nodes)
            nodes = Nodes(*(self._noisy(v, rng, stream) for v, rng in zip(smoothed, rngs, strict=True)))
            layers.append(nodes)
        return Nodes(*(torch.stack(side).mean(0) for side in zip(*layers, strict=True)))

    def _noisy(self, vector: torch.Tensor, rng: RowRng, stream: int) -> torch.Tensor:
        direction = normalize(uniform_numbers(rng, vector.shape[1], stream).to(vector), dim=1)
        return vector + self.noise * vector.sign() * direction

    def auxiliary_loss(
        self, batch: dict[str, torch.Tensor], item_B: torch.Tensor, rng: RowRng
    ) -> torch.Tensor:
        """`[B]`: the rows' shares of `contrast` times the InfoNCE (eq. 2) of users plus that of items.

        Each InfoNCE is a mean over the different nodes of the whole batch, as in the authors' code, where
        the paper writes a sum. Shares are scaled by A, so that their mean over the whole batch, which the
        training loop minimizes, is this loss.
        """
        # Every node has noise of its own, whichever worker holds it.
        users = torch.arange(self.first_user, self.first_user + self.n_users)
        rngs = rng.of_rows(users), rng.of_rows(torch.arange(_ITEMS, _ITEMS + self.n_items))
        first, second = (self.view(rngs, number) for number in range(2))
        user_B = self._contrast(first.user_UD, second.user_UD, batch["user"], self.first_user)
        item_B = self._contrast(first.item_ID, second.item_ID, item_B, 0)
        return self.contrast * (user_B + item_B)

    def _contrast(
        self, first_ND: torch.Tensor, second_ND: torch.Tensor, node_B: torch.Tensor, first_node: int
    ) -> torch.Tensor:
        """`[B]`: A times each row's share of the mean over W; rows of one node share its term equally.

        Args:
            first_node: what to add to a node's place here for a number that all workers know it by.
        """
        node_V, row_B = torch.unique(node_B, return_inverse=True)
        known_A = gather_rows(node_V + first_node)
        known_W, of_A = torch.unique(known_A, return_inverse=True)
        # Any of the workers that hold a node can give its vector.
        giver_W = torch.empty_like(known_W).scatter_(0, of_A, torch.arange(len(known_A), device=of_A.device))
        other_WD = gather_rows_with_gradients(second_ND[node_V])[giver_W]
        row_A = gather_rows(node_B + first_node)
        count_W = torch.bincount(torch.searchsorted(known_W, row_A), minlength=len(known_W))
        place_V = torch.searchsorted(known_W, node_V + first_node)
        cosine_VW = normalize(first_ND[node_V], dim=1) @ normalize(other_WD, dim=1).T
        term_V = cross_entropy(cosine_VW.to(first_ND.dtype) / self.temperature, place_V, reduction="none")
        scale = len(row_A) / max(len(known_W), 1)  # a batch may be empty
        return (scale * term_V / count_W[place_V])[row_B]


COMPONENT = ModelComponent(
    name="simgcl",
    settings=SimGCLSettings,
    build=lambda inputs, settings: SimGCL(
        inputs.observed, inputs.embedding_dim, settings, inputs.cosine, inputs.first_user
    ),
    adds_to_loss=True,
    is_graph=True,
)
