"""Random numbers that belong to a row of the batch, not to the process that holds it.

A counter-based generator: the number is a hash of (seed, epoch, step, row, stream, index). Every worker
would draw the same negatives for a row, so that a run over two workers repeats the run over one, and a
resumed run needs no generator state.

Legend: B rows of the batch held here, n numbers per row.
"""

from __future__ import annotations

import math

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_SHARED_ROW = -1


def splitmix64(x: torch.Tensor) -> torch.Tensor:
    """Steele, Lea and Flood's SplitMix64 finalizer, elementwise on int64 (arithmetic wraps around)."""
    x = x + _GOLDEN
    # torch shifts signed integers arithmetically; the mask turns that into a logical shift.
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class RowRng:
    """The random numbers of one step.

    Args:
        row_B: the rows' positions in the whole batch, the same whichever worker holds them.
        key: numbers that identify the step, such as (seed, epoch, step).

    Attributes:
        row_B: one random number per row, the same on whichever worker holds the row.
    """

    def __init__(self, row_B: torch.Tensor, *key: int) -> None:
        state = torch.zeros((), dtype=torch.int64, device=row_B.device)
        for part in key:
            state = splitmix64(state ^ part)
        self._step = state
        self.row_B = splitmix64(state ^ row_B.to(torch.int64))

    @classmethod
    def fresh(cls, rows: int, device: torch.device | str = "cpu") -> RowRng:
        """Draws for a training loop without workers and steps, seeded by torch's own generator."""
        seed = int(torch.randint(1 << 62, ()))
        return cls(torch.arange(rows, device=device), seed)

    def integers(self, high: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[B, n]` integers in `[0, high)`, independent for every row and stream."""
        return self.integers_at(torch.arange(n, device=self.row_B.device)[None], high, stream)

    def integers_at(self, column: torch.Tensor, high: int, stream: int = 0) -> torch.Tensor:
        """The numbers of `integers` in the given columns, `[B, n]`, or `[1, n]` for all rows."""
        return self._numbers(self.row_B[:, None], column, high, stream)

    def shared_integers(self, high: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[n]` integers in `[0, high)` that all rows of the batch, on all workers, have in common."""
        index = torch.arange(n, device=self.row_B.device)
        return self._numbers(splitmix64(self._step ^ _SHARED_ROW), index, high, stream)

    def shared_normals(self, rows: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[rows, n]` standard normal numbers that all rows of the batch, on all workers, have in common."""
        bits = self.shared_integers(1 << 31, 2 * rows * n, stream).to(torch.float64)
        uniform_2N = ((bits + 0.5) / (1 << 31)).unflatten(0, (2, rows * n))
        # Box and Muller (1958).
        normal_N = (-2 * uniform_2N[0].log()).sqrt() * torch.cos(2 * math.pi * uniform_2N[1])
        return normal_N.unflatten(0, (rows, n))

    @staticmethod
    def _numbers(state: torch.Tensor, index: torch.Tensor, high: int, stream: int) -> torch.Tensor:
        bits = splitmix64(state ^ splitmix64(index + (stream << 32)))
        # 31 bits scaled to [0, high): no modulo, and a bias below high / 2**31.
        return (((bits >> 33) & ((1 << 31) - 1)) * high) >> 31
