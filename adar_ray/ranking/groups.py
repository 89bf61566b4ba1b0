"""Users or items in groups, by a number that each of them has.

Legend: N users or items, V different numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Groups:
    """Groups by ascending numbers.

    Attributes:
        of_N: the group of each.
        bounds: the lowest and the highest number in each group.
        sizes: how many each group has.
    """

    of_N: torch.Tensor
    bounds: list[tuple[int, int]]
    sizes: list[int]

    def __len__(self) -> int:
        return len(self.sizes)


def group_by(number_N: torch.Tensor, groups: int, weight_N: torch.Tensor | None = None) -> Groups:
    """Cuts users or items, in the order of their numbers, into groups of about the same weight.

    Those with equal numbers stay together: they go where the middle of their weight falls. So groups may
    differ in weight, and there may be fewer of them.

    Args:
        number_N: whole numbers, of at least one user or item.
        groups: how many groups to make, at most.
        weight_N: whole numbers; 1 by default.
    """
    number_V, at_N = torch.unique(number_N, return_inverse=True)
    weight_N = torch.ones_like(at_N) if weight_N is None else weight_N
    weight_V = torch.zeros_like(number_V, dtype=torch.int64).index_add_(0, at_N, weight_N)
    twice_middle_V = 2 * weight_V.cumsum(0) - weight_V
    wanted_V = twice_middle_V * groups // max(2 * int(weight_V.sum()), 1)
    _, group_V = torch.unique(wanted_V, return_inverse=True)
    of_N = group_V[at_N]
    sizes = torch.bincount(of_N).tolist()
    bounds = []
    for group in range(len(sizes)):
        numbers = number_V[group_V == group]
        bounds.append((int(numbers[0]), int(numbers[-1])))
    return Groups(of_N, bounds, sizes)
