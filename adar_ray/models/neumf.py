"""NeuMF: matrix factorization and a multilayer perceptron side by side.

Legend: B rows of the batch, K items per row, D dimensions of a tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import nn

from adar_ray.component import ModelComponent, Settings, setting
from adar_ray.models.protocol import dot_score
from adar_ray.models.table import Table
from adar_ray.models.user_tables import Draw

# Numbers of a hidden layer that `score` holds at a time if it keeps none for gradients: 64 MiB.
_NUMBERS = 1 << 24


class NeuMFSettings(Settings):
    """NeuMF (He et al., WWW 2017): matrix factorization and a perceptron; the score is a network's."""

    layers: int = setting(
        2, "Hidden layers of the perceptron.", search={"integer": [1, 4]}, structural=True, ge=1, le=64
    )
    dropout: float = setting(
        0.2,
        "Share of each hidden layer's activations that is dropped.",
        search={"quantized": [0.0, 0.5, 0.1]},
        ge=0,
        lt=1,
    )


class NeuMF(nn.Module):
    """He et al., "Neural Collaborative Filtering" (WWW 2017), section 3.4, without pre-training.

    The score is the logit of eq. 12, before its sigmoid. The perceptron's hidden layers have D, D/2, D/4 ...
    units, as in the paper's towers, and ReLUs.

    Args:
        n_users, n_items: sizes of the tables.
        embedding_dim: D; a representation is the embeddings of both towers, 2 D numbers, matrix factorization
            first.
        sharded: workers share out the items (see `Table`).
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        embedding_dim: int,
        settings: NeuMFSettings = NeuMFSettings(),
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.item = Table(n_items, 2 * embedding_dim, sharded=sharded)
        self.item.draw(_draw)
        # The first layer is linear in user and item end to end, hence a sum of two halves.
        self.user_half = nn.Linear(embedding_dim, embedding_dim)
        self.item_half = nn.Linear(embedding_dim, embedding_dim, bias=False)
        units = [max(embedding_dim >> layer, 1) for layer in range(settings.layers)]
        rest: list[nn.Module] = [nn.ReLU(), nn.Dropout(settings.dropout)]
        for wide, narrow in pairwise(units):
            rest += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(settings.dropout)]
        self.perceptron = nn.Sequential(*rest, nn.Linear(units[-1], 1))
        self.product_weight = nn.Parameter(torch.empty(embedding_dim).uniform_(-1, 1) / embedding_dim**0.5)
        # Last: the random numbers that users take depend on how many there are here.
        self.user = Table(n_users, 2 * embedding_dim)
        _draw(self.user.weight.data)

    @property
    def user_tables(self) -> Mapping[str, Draw]:
        return {"user.weight": lambda rows, n_users, generator: _draw(rows, generator)}

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.user(batch["user"])

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.item(item)

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        factor_BD, user_BD = user_BD.chunk(2, -1)
        factor_BD, user_BD = factor_BD * self.product_weight, self.user_half(user_BD)
        items_at_a_time = max(_NUMBERS // max(user_BD.numel(), 1), 1)
        if torch.compiler.is_exporting():  # the program is the same for any number of users
            items_at_a_time = item_BKD.shape[1]
        score = []
        for part_BKD in item_BKD.split(items_at_a_time, 1):
            factor_BKD, part_BKD = part_BKD.chunk(2, -1)
            hidden_BKD = user_BD[:, None] + self.item_half(part_BKD)
            score.append(dot_score(factor_BD, factor_BKD) + self.perceptron(hidden_BKD)[..., 0])
        return torch.cat(score, 1)


def _draw(rows: torch.Tensor, generator: torch.Generator | None = None) -> None:
    rows.normal_(std=0.01, generator=generator)  # the paper's section 4.1


COMPONENT = ModelComponent(
    name="neumf",
    settings=NeuMFSettings,
    build=lambda inputs, settings: NeuMF(
        inputs.observed.n_users, inputs.observed.n_items, inputs.embedding_dim, settings, inputs.sharded
    ),
    shards_items=True,
    has_cosine=False,
)
