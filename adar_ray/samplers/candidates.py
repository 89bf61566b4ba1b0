"""Random items that a row's user has not interacted with, which several samplers choose among.

Legend: B rows of the batch, K negatives a row, N candidates a row or a negative, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from adar_ray.draws import Draws
from adar_ray.negatives import Items

_REDRAWS = 8
_FINE = 1 << 23  # single precision tells so many numbers apart


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


@torch.no_grad()
def scored_candidates(
    user_BD: torch.Tensor, items: Items, draws: Draws, K: int, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """n unseen items for each of K negatives, `[B, K, n]`, their scores, and False where none was found."""
    item_BN, mask_BN = uniform_candidates(items, draws, K * n)
    score_BN = items.score(user_BD, items.vectors(item_BN))
    return tuple(x_BN.unflatten(1, (K, n)) for x_BN in (item_BN, score_BN, mask_BN))


def pick(value_BKN: torch.Tensor, at_BK: torch.Tensor) -> torch.Tensor:
    """`[B, K]`: the value at the given place of each last axis."""
    return value_BKN.gather(2, at_BK[..., None])[..., 0]


def uniform_numbers(draws: Draws, n: int, stream: int) -> torch.Tensor:
    """`[B, n]` numbers between 0 and 1, neither of them included."""
    return (draws.integers(_FINE, n, stream).to(torch.get_default_dtype()) + 0.5) / _FINE
