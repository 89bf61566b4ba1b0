"""Random items that a row's user has not interacted with, which several samplers choose among.

Legend: B rows of the batch, N candidates a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from adar_ray.draws import Draws
from adar_ray.negatives import Items

_REDRAWS = 8


def unseen(draw_BN: Callable[[int], torch.Tensor], items: Items) -> tuple[torch.Tensor, torch.Tensor]:
    """Item ids `[B, N]`, and False where no unseen one was found.

    Args:
        draw_BN: stream -> ids `[B, N]`, other ones for each stream.
    """
    item_BN = draw_BN(0)
    mask_BN = torch.ones_like(item_BN, dtype=torch.bool)
    if items.seen is None:
        return item_BN, mask_BN
    # Redrawing the seen ones leaves the others distributed as they were, among the unseen. A user who
    # has seen nearly everything may still be left with a seen item: it is masked, not used.
    for stream in range(1, _REDRAWS + 1):
        seen_BN = items.seen(item_BN)
        if not seen_BN.any():
            return item_BN, mask_BN
        item_BN = torch.where(seen_BN, draw_BN(stream), item_BN)
    return item_BN, ~items.seen(item_BN)


def uniform_candidates(items: Items, draws: Draws, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[B, n]` unseen items, each equally likely, and False where none was found."""
    return unseen(lambda stream: draws.integers(items.n_items, n, stream), items)
