"""Matrix factorization: a vector per user, a vector per item, and their dot product.

Legend: B rows of the batch, K items per row, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from adar_ray.component import ModelComponent, Settings
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.table import Table, TablePairs
from adar_ray.models.user_tables import Draw


class MFSettings(Settings):
    """Matrix factorization (Koren et al., 2009)."""


class MF(DotProductModel):
    """Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems" (2009), without
    biases.

    Tables start small (Glorot and Bengio, AISTATS 2010), so that on sparse data a vector is what its few
    interactions made of it.

    Args:
        n_users, n_items: sizes of the tables.
        embedding_dim: D.
        cosine: score by the cosine: representations have length one.
        sharded: workers share out the items (see `Table`).
    """

    item: Table

    def __init__(
        self, n_users: int, n_items: int, embedding_dim: int, cosine: bool = False, sharded: bool = False
    ) -> None:
        super().__init__(cosine)
        # Items first: the random numbers that users take depend on how many there are here.
        self.item = Table(n_items, embedding_dim, sharded=sharded)
        self.user = Table(n_users, embedding_dim)
        self.item.draw(lambda rows: draw_small(rows, n_items))
        draw_small(self.user.weight.data, n_users)

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        return {"user.weight": draw_small}

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.represent(self.user(batch["user"]))

    @property
    def pairs(self) -> TablePairs | None:
        return None if self.cosine else TablePairs.of(self.user, self.item)

    @property
    def l2_vectors(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
        """The tables' rows if representations, being of length one, cannot shrink.

        None if they are the representations: each look-up makes a gradient as large as its table.
        """
        return self._rows if self.cosine else None

    def _rows(self, batch: dict[str, torch.Tensor], item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.user(batch["user"]), self.item(item)


def draw_small(rows: torch.Tensor, n_rows: int, generator: torch.Generator | None = None) -> None:
    """Fills rows of a table of `n_rows` (Glorot and Bengio, AISTATS 2010)."""
    bound = math.sqrt(6 / (n_rows + rows.shape[1]))
    rows.uniform_(-bound, bound, generator=generator)


DEFAULTS: dict[str, Any] = {
    "defaults": {"loss.name": "sampled_softmax", "optimizer.lr": 3e-3, "loss.l2": 1e-2},
    "defaults_with_loss": {
        "sampled_softmax": {"model.cosine": True, "optimizer.lr": 1e-2, "loss.l2": 0.0},
    },
}
"""Of a declaration; two towers have them, too."""

COMPONENT = ModelComponent(
    name="mf",
    settings=MFSettings,
    build=lambda inputs, _: MF(
        inputs.observed.n_users,
        inputs.observed.n_items,
        inputs.embedding_dim,
        inputs.cosine,
        inputs.sharded,
    ),
    shards_items=True,
    **DEFAULTS,
)
