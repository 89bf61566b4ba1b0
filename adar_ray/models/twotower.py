"""Two towers: a user is a vector, an item a sum of its own vector and the vectors of its features.

Legend: B rows of the batch, N different items among those looked up, E features of items, I items, G groups
of items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from adar_ray.component import ModelComponent, ModelInputs, Settings, setting
from adar_ray.interactions.item_features import ItemFeatures
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.mf import DEFAULTS, draw_small
from adar_ray.models.table import Table
from adar_ray.models.user_tables import Draw
from adar_ray.rng import RowRng

_GROUPS = 1 << 16  # of items that lose their own vectors together: drawing for millions would take a while
_FINE = 1 << 20


class TwoTowerSettings(Settings):
    """Two towers: an item's vector and those of its features add up (Kula 2015; Volkovs et al., 2017)."""

    id_dropout: float = setting(
        0.3,
        "Share of the items that a step knows by their features alone, as new items are known.",
        search={"uniform": [0.0, 0.7]},
        ge=0,
        le=1,
    )


class TwoTower(DotProductModel):
    """Kula, "Metadata Embeddings for User and Item Cold-start Recommendations" (CBRecSys 2015), for items.

    An item is the sum of a vector of its own and of its features' vectors: the mean of its categories' in
    each column, and each number, standardized, times a vector. Each step leaves out the own vectors of some
    items that have features, which therefore do as well without (Volkovs, Yu and Poutanen, "DropoutNet:
    Addressing Cold Start in Recommender Systems", NIPS 2017).

    Args:
        n_users, n_items: sizes of the tables.
        embedding_dim: D.
        features: of the items; without any this is matrix factorization.
        settings: `id_dropout`.
        cosine: score by the cosine: representations have length one.
        sharded: workers share out the items' own vectors (see `Table`).
    """

    item: Table
    feature_tables = ("feature.weight",)

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_dim: int,
        features: ItemFeatures,
        settings: TwoTowerSettings = TwoTowerSettings(),
        cosine: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__(cosine)
        self.id_dropout = settings.id_dropout
        # Users last: the random numbers that they take depend on how many there are here.
        self.item = Table(n_items, embedding_dim, sharded=sharded)
        self.feature = Table(features.n_features, embedding_dim)
        self.user = Table(n_users, embedding_dim)
        self.item.draw(lambda rows: draw_small(rows, n_items))
        # As long as the vectors that they are added to.
        self.feature.draw(lambda rows: draw_small(rows, n_items))
        draw_small(self.user.weight.data, n_users)
        self._hold(features)

    def _hold(self, features: ItemFeatures) -> None:
        # Derived from the dataset, hence not part of the weights.
        self.start = nn.Buffer(features.start, persistent=False)
        self.feature_E = nn.Buffer(features.feature_E, persistent=False)
        self.value_E = nn.Buffer(features.value_E, persistent=False)

    @property
    def features(self) -> ItemFeatures:
        """The items' features."""
        return ItemFeatures(self.start, self.feature_E, self.value_E, self.feature.num_embeddings)

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        return {"user.weight": draw_small}

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.represent(self.user(batch["user"]))

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.represent(self.vectors(item))

    def ranking_items(self, item: torch.Tensor) -> torch.Tensor:
        return self.represent_for_ranking(self.vectors(item))

    def vectors(self, item: torch.Tensor, kept_G: torch.Tensor | None = None) -> torch.Tensor:
        """What ids, of any shape, add up to, `[..., D]`.

        Args:
            kept_G: of each group of items, whether their own vectors count; all do by default.
        """
        own = self.item(item)
        if not self.feature.num_embeddings:
            return own
        if kept_G is not None:
            is_kept = kept_G[item % len(kept_G)] | (self.start[item + 1] == self.start[item])
            own = own * is_kept[..., None]
        return own + self.of_features(item)

    def of_features(self, item: torch.Tensor) -> torch.Tensor:
        """What the features of items, with ids of any shape, add up to, `[..., D]`."""
        item_N, at = torch.unique(item, return_inverse=True)
        count_N = self.start[item_N + 1] - self.start[item_N]
        start = torch.cat([count_N.new_zeros(1), count_N.cumsum(0)])
        at_E = torch.arange(int(start[-1]), device=item.device)
        at_E += (self.start[item_N] - start[:-1]).repeat_interleave(count_N)
        sum_ND = self.feature.sums(self.feature_E[at_E], self.value_E[at_E], start)
        return nn.functional.embedding(at, sum_ND)

    def l2_vectors(
        self, batch: dict[str, torch.Tensor], item: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What representations are made of. An item's two parts count side by side, as they may cancel."""
        user_BD, own = self.user(batch["user"]), self.item(item)
        return user_BD, torch.cat([own, self.of_features(item)], -1) if self.feature.num_embeddings else own

    def step_snapshot(self, rng: RowRng) -> TwoTower | _WithoutSome:
        """The model as a step trains it: without the own vectors of some items, the same on all workers."""
        if not self.id_dropout:
            return self
        number_G = rng.shared_integers(_FINE, min(self.item.num_embeddings, _GROUPS))
        return _WithoutSome(self, number_G >= self.id_dropout * _FINE)

    def add_items(self, features: ItemFeatures) -> None:
        """Adds items that have features alone."""
        count = len(features.start) - 1
        own_ID = torch.cat(
            [self.item.weight.detach(), self.item.weight.new_zeros(count, self.item.embedding_dim)]
        )
        self.item.num_embeddings, self.item.weight = len(own_ID), nn.Parameter(own_ID)
        self._hold(self.features.followed_by(features))


class _WithoutSome:
    """The model without some items' own vectors."""

    scores_by_dot_product = True

    def __init__(self, model: TwoTower, kept_G: torch.Tensor) -> None:
        self.model, self.kept_G = model, kept_G

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.users(batch)

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.model.represent(self.model.vectors(item, self.kept_G))

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return self.model.score(user_BD, item_BKD)


def _build(inputs: ModelInputs, settings: TwoTowerSettings) -> TwoTower:
    n_items = inputs.observed.n_items
    features = inputs.features or ItemFeatures.none(n_items)
    sizes = inputs.observed.n_users, n_items, inputs.embedding_dim
    return TwoTower(*sizes, features, settings, inputs.cosine, inputs.sharded)


COMPONENT = ModelComponent(
    name="twotower",
    settings=TwoTowerSettings,
    build=_build,
    shards_items=True,
    reads_features=True,
    **DEFAULTS,
)
