"""How much each observed pair counts in training, to look up for a batch at a time.

Legend: N pairs of a batch, E interactions, P distinct pairs.
"""

from __future__ import annotations

import torch

from adar_ray.interactions.user_items import UserItems


class PairWeights:
    """The weights of observed pairs.

    A pair that occurs several times has the mean weight of its interactions. Each of them is trained on, so
    together they count as much as with weights of their own.

    Args:
        observed: the pairs.
        user_E, item_E, weight_E: the interactions, which are those of `observed`.
        mean: the weight that counts once.
    """

    def __init__(
        self,
        observed: UserItems,
        user_E: torch.Tensor,
        item_E: torch.Tensor,
        weight_E: torch.Tensor,
        mean: float,
    ) -> None:
        self._observed = observed
        place_E = observed.places(user_E, item_E)
        total_P = torch.bincount(place_E, weight_E.double(), minlength=len(observed))
        count_P = torch.bincount(place_E, minlength=len(observed))
        self._weight_P = (total_P / count_P / mean).float()

    def __call__(self, user_N: torch.Tensor, item_N: torch.Tensor) -> torch.Tensor:
        """`[N]`: the weights of observed pairs over the mean."""
        return self._weight_P[self._observed.places(user_N, item_N)]

    def to(self, device: torch.device | str) -> PairWeights:
        """Moves the weights; `observed` has to be moved as well."""
        self._weight_P = self._weight_P.to(device)
        return self
