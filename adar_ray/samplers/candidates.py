"""Random items that a row's user has not interacted with; several samplers choose among them.

Legend: B rows of the batch, K negatives per row, N candidates per row or negative, W some of their columns,
D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from adar_ray.component import Settings, setting
from adar_ray.interactions.user_items import SeenItems
from adar_ray.rng import RowRng
from adar_ray.samplers.base import SamplingContext, excluded_items

_REDRAWS = 8
_ANY = 1 << 31


class CandidateSettings(Settings):
    """What samplers that choose among random items have in common."""

    negatives: int = setting(1, "Negatives per positive.", search={"choice": [1, 2, 4, 8]}, ge=1, le=4_096)
    candidates: int = setting(
        16,
        "Random items among which each negative is chosen.",
        search={"choice": [4, 8, 16, 32]},
        ge=1,
        le=65_536,
    )


def unseen(
    context: SamplingContext, rng: RowRng, n: int, high: int, item_of: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[B, n]` item ids, and False where no unseen one was found.

    Args:
        item_of: the item that an integer in `[0, high)` stands for, elementwise.
    """
    item_BN = item_of(rng.integers(high, n))
    seen_BN = excluded_items(context, item_BN, len(item_BN))
    # Redrawing the seen ones leaves the others distributed as they were, among the unseen. Only the columns W
    # that still matter are looked up: each row's seen ones, and others in rows that have fewer.
    column_BW, seen_BW = torch.arange(n, device=item_BN.device).expand_as(item_BN), seen_BN
    for stream in range(1, _REDRAWS + 1):
        if not seen_BW.any():
            break
        left_BW, at_BW = seen_BW.to(torch.uint8).topk(int(seen_BW.sum(1).max()), sorted=False)
        column_BW, seen_BW = column_BW.gather(1, at_BW), left_BW.bool()
        drawn_BW = item_of(rng.integers(high, n, stream).gather(1, column_BW))
        item_BW = torch.where(seen_BW, drawn_BW, item_BN.gather(1, column_BW))
        item_BN.scatter_(1, column_BW, item_BW)
        seen_BW &= excluded_items(context, item_BW, len(item_BW))
    # A user who has seen nearly everything may still get a seen item: it is masked, not used.
    return item_BN, torch.ones_like(seen_BN).scatter(1, column_BW, ~seen_BW)


def uniform_candidates(context: SamplingContext, rng: RowRng, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[B, n]` unseen items, all equally likely, and False where none was found."""
    if isinstance(context.seen, SeenItems):
        return context.seen.draw_others(rng.integers(_ANY, n))
    return unseen(context, rng, n, context.n_items, lambda item_BN: item_BN)


@torch.no_grad()
def scored_candidates(
    user_BD: torch.Tensor, context: SamplingContext, rng: RowRng, K: int, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """n unseen items for each of K negatives, `[B, K, n]`, their scores, and False where none was found."""
    item_BN, mask_BN = uniform_candidates(context, rng, K * n)
    score_BN = context.score(user_BD, context.vectors(item_BN))
    return item_BN.unflatten(1, (K, n)), score_BN.unflatten(1, (K, n)), mask_BN.unflatten(1, (K, n))


def pick(value_BKN: torch.Tensor, at_BK: torch.Tensor) -> torch.Tensor:
    """`[B, K]`: the value at the given place of each last axis."""
    return value_BKN.gather(2, at_BK[..., None])[..., 0]
