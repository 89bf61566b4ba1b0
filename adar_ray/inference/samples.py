"""What a model recommends to a few users, for people to look at.

Legend: S sampled users, U users who are ranked, k items of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch

from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import latest_items
from adar_ray.interactions import PADDING
from adar_ray.ranking.tally import Ranked
from adar_ray.training.records import Sample

ITEMS = 5


class Samples:
    """Keeps the first items of some users as their rankings come.

    Args:
        user_S: the users.
    """

    def __init__(self, user_S: torch.Tensor) -> None:
        self._user_S = user_S
        self._top: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, ranked: Ranked) -> None:
        """Keeps what is wanted of a tile's rankings."""
        for row in torch.isin(ranked.user_B, self._user_S).nonzero()[:, 0].tolist():
            is_item_k = ranked.valid_Bk[row, :ITEMS]
            top = (ranked.item_Bk[row, :ITEMS][is_item_k], ranked.hit_Bk[row, :ITEMS][is_item_k])
            self._top[int(ranked.user_B[row])] = top

    def records(self, dataset: Dataset, before: Sequence[str]) -> list[Sample]:
        """The samples, items by their titles if they have any, with what the users did in the splits before.

        Raises:
            KeyError: a user has not been ranked.
        """
        titles, names = dataset.item_titles(), dataset.item_keys()
        if titles is not None:
            names = pc.coalesce(titles, names)
        users = dataset.user_keys().take(pa.array(self._user_S.numpy())).to_pylist()

        def named(item: torch.Tensor) -> list[str]:
            return names.take(pa.array(item.numpy())).to_pylist()

        return [
            Sample(
                user=key,
                history=named(latest_k[latest_k != PADDING]),
                items=named(item_k),
                hits=hit_k.tolist(),
            )
            for key, latest_k, (item_k, hit_k) in zip(
                users,
                latest_items(dataset, self._user_S, before, ITEMS),
                (self._top[user] for user in self._user_S.tolist()),
                strict=True,
            )
        ]


def middle_users(user_U: torch.Tensor, number_U: torch.Tensor, group_U: torch.Tensor) -> torch.Tensor:
    """Of each group of users, the one in the middle by number, then by id."""
    order_U = torch.sort(number_U, stable=True).indices
    order_U = order_U[torch.sort(group_U[order_U], stable=True).indices]
    sizes = torch.bincount(group_U)
    return user_U[order_U[sizes.cumsum(0) - sizes + (sizes - 1) // 2]]
