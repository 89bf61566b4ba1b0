"""LightGCN: vectors smoothed over the graph of interactions.

Legend: D dimensions.
"""

from __future__ import annotations

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.graph import GraphModel, PropagatedMean, mean_of_layers


class LightGCNSettings(Settings):
    """LightGCN (He et al., SIGIR 2020): the mean over steps of smoothing on the interaction graph."""

    layers: int = setting(
        2, "Steps over the graph.", search={"integer": [1, 4]}, structural=True, ge=1, le=64
    )


class LightGCN(GraphModel):
    """He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation" (SIGIR
    2020).

    A representation is the mean over layers 0 to L of `A^l E`, with A the symmetrically normalized graph (eq.
    3 and 4).

    Args:
        observed: the training interactions, which are the graph's edges.
        embedding_dim: D.
        cosine: score by the cosine: representations have length one.
    """

    def __init__(
        self,
        observed: UserItems,
        embedding_dim: int,
        settings: LightGCNSettings = LightGCNSettings(),
        cosine: bool = False,
    ) -> None:
        super().__init__(observed, embedding_dim, settings.layers, cosine)

    def snapshot(self) -> PropagatedMean:
        return PropagatedMean(self, *mean_of_layers(self.graph, self.nodes(), self.layers, first=0))


COMPONENT = ModelComponent(
    name="lightgcn",
    settings=LightGCNSettings,
    build=lambda inputs, settings: LightGCN(inputs.observed, inputs.embedding_dim, settings, inputs.cosine),
    defaults={"loss.name": "sampled_softmax", "optimizer.lr": 3e-3, "loss.l2": 1e-3},
    defaults_with_loss={
        "sampled_softmax": {"model.cosine": True, "optimizer.lr": 5e-3, "loss.l2": 0.0},
    },
    is_graph=True,
)
