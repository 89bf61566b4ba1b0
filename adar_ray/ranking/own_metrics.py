"""Metrics of the user's own, named `module:callable`.

Legend: B users of a tile, k length of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from adar_ray.errors import AdarError
from adar_ray.interactions import PADDING

_MOST = 2**30  # what the sums over all users have room for

OwnMetric = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""`(user_B, item_Bk, hit_Bk, relevant_B) -> value_B`; docs/custom.md says what they are."""


def own_metrics(
    own: Mapping[str, OwnMetric],
    user_B: torch.Tensor,
    item_Bk: torch.Tensor,
    valid_Bk: torch.Tensor,
    hit_Bk: torch.Tensor,
    relevant_B: torch.Tensor,
    ks: Sequence[int],
) -> dict[str, torch.Tensor]:
    """Own metrics of rankings: `name@k` -> `[B]`. They get tensors of the CPU, wherever the rankings are.

    Args:
        own: by name.
        user_B: the users.
        item_Bk: the items, best first; at least max(ks) of them, or all there are.
        valid_Bk: which of them are items.
        hit_Bk: which of them are relevant.
        relevant_B: number of relevant items of each user.
        ks: cutoffs.

    Raises:
        AdarError: a metric returns something other than a number for each user, or too large a one.
    """
    if not own:
        return {}
    device, item_Bk = user_B.device, item_Bk.masked_fill(~valid_Bk, PADDING)
    user_B, item_Bk, hit_Bk, relevant_B = user_B.cpu(), item_Bk.cpu(), hit_Bk.cpu(), relevant_B.cpu()
    values = {}
    for name, metric in own.items():
        for k in ks:
            # Copies: the rankings are needed afterwards, and a metric may work in place.
            given = (user_B, item_Bk[:, :k], hit_Bk[:, :k], relevant_B)
            value_B = metric(*(tensor.clone() for tensor in given))
            is_tensor = isinstance(value_B, torch.Tensor) and not value_B.is_complex()
            if not is_tensor or value_B.shape != user_B.shape:
                raise AdarError(f"metric {name}: does not return a tensor with a number for each user")
            if (value_B.to(torch.float64).abs() > _MOST).any():
                raise AdarError(
                    f"metric {name}: returns numbers beyond {_MOST:,}; scale them, and use NaN for a user "
                    "who does not count"
                )
            values[f"{name}@{k}"] = value_B.detach().to(device)
    return values
