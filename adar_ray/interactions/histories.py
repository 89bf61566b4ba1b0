"""Each user's latest items, to look up for a batch at a time.

Legend: B users of a batch, L longest history, E interactions.
"""

from __future__ import annotations

import torch

from adar_ray.interactions import PADDING


class Histories:
    """Each user's latest items, in order of time.

    Args:
        user_E, item_E: interactions, each user's in order of time; users may be mixed.
        n_users: size of the id range.
        length: L.
    """

    def __init__(self, user_E: torch.Tensor, item_E: torch.Tensor, n_users: int, length: int) -> None:
        by_user_E = torch.sort(user_E, stable=True).indices
        # Every look-up before a user's first item goes to index 0.
        self._item = torch.cat([item_E.new_tensor([PADDING]), item_E[by_user_E]])
        ends = torch.bincount(user_E, minlength=n_users).cumsum(0) + 1
        self._start = torch.cat([ends.new_tensor([1]), ends])
        self._back_L = torch.arange(-length, 0, device=user_E.device)

    def to(self, device: torch.device | str) -> Histories:
        self._item, self._start, self._back_L = (
            tensor.to(device) for tensor in (self._item, self._start, self._back_L)
        )
        return self

    def __call__(self, user_B: torch.Tensor) -> torch.Tensor:
        """Returns items `[B, L]`, the latest last, with PADDING on the left."""
        at_BL = self._start[user_B + 1, None] + self._back_L
        at_BL = torch.where(at_BL >= self._start[user_B, None], at_BL, 0)
        return self._item[at_BL].to(torch.int64)
