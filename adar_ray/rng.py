"""Random numbers that belong to a row of the batch, not to the process that holds it.

They come from Philox, a counter-based generator: a number is a function of (seed, epoch, step, stream, row,
index). Every worker would draw the same negatives for a row, so that a run over two workers repeats the run
over one, and a resumed run needs no generator state.

Legend: B rows of the batch held here, n numbers per row.
"""

from __future__ import annotations

import math

import numpy as np
import torch

_MASK = (1 << 64) - 1
_WORDS_A_BLOCK = 8  # Philox 4x64 makes four numbers of 64 bits from each value of its counter
_FINE = 1 << 23  # single precision tells this many numbers apart
_SHARED = 1 << 63  # keeps numbers that all rows share apart from those of rows


class RowRng:
    """The random numbers of one step.

    Args:
        row_B: the rows' positions in the whole batch, the same whichever worker holds them. Rows that lie
            close together are the fastest.
        key: numbers that identify the step, such as (seed, epoch, step).
        device: where the numbers go; by default where `row_B` is.

    Attributes:
        row_B: the rows' positions.
    """

    def __init__(self, row_B: torch.Tensor, *key: int, device: torch.device | str | None = None) -> None:
        self.row_B = row_B
        self._device = torch.device(row_B.device if device is None else device)
        self._state = 0
        for part in key:
            self._state = _mix(self._state ^ part)
        rows = row_B.cpu().numpy()
        self._first, self._span, self._at_B = int(rows[0]) if len(rows) else 0, len(rows), None
        if not (rows == np.arange(self._first, self._first + self._span)).all():
            self._first = int(rows.min())
            self._span = int(rows.max()) - self._first + 1
            self._at_B = rows - self._first

    def of_rows(self, row_B: torch.Tensor) -> RowRng:
        """The random numbers of the same step for other rows."""
        other = RowRng(row_B, device=self._device)
        other._state = self._state
        return other

    @classmethod
    def fresh(cls, rows: int, device: torch.device | str = "cpu") -> RowRng:
        """Draws for a training loop without workers and steps, seeded by torch's own generator."""
        seed = int(torch.randint(1 << 62, ()))
        return cls(torch.arange(rows), seed, device=device)

    def integers(self, high: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[B, n]` integers in `[0, high)`, independent for every row and stream; high is at most 2**31."""
        word_Rn = self._words(stream, self._first * n, self._span * n).reshape(self._span, n)
        return self._scaled(word_Rn if self._at_B is None else word_Rn[self._at_B], high)

    def shared_integers(self, high: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[n]` integers in `[0, high)` that all rows of the batch, on all workers, have in common."""
        return self._scaled(self._words(_SHARED | stream, 0, n), high)

    def shared_normals(self, rows: int, n: int, stream: int = 0) -> torch.Tensor:
        """`[rows, n]` standard normal numbers that all rows of the batch, on all workers, have in common."""
        bits = self.shared_integers(1 << 31, 2 * rows * n, stream).to(torch.float64)
        uniform_2N = ((bits + 0.5) / (1 << 31)).unflatten(0, (2, rows * n))
        # Box and Muller (1958).
        normal_N = (-2 * uniform_2N[0].log()).sqrt() * torch.cos(2 * math.pi * uniform_2N[1])
        return normal_N.unflatten(0, (rows, n))

    def _words(self, stream: int, start: int, count: int) -> np.ndarray:
        """Random numbers of 32 bits: `count` of the stream's, from the one at `start`."""
        block, skipped = divmod(start, _WORDS_A_BLOCK)
        # Integers: numpy takes a list of numbers beyond 2**63 for floating-point ones, and rounds them.
        generator = np.random.Philox(counter=block, key=self._state | stream << 64)
        return generator.random_raw((skipped + count + 1) // 2).view(np.uint32)[skipped : skipped + count]

    def _scaled(self, word: np.ndarray, high: int) -> torch.Tensor:
        # 32 bits scaled to [0, high): no modulo, and a bias below high / 2**32.
        number = torch.from_numpy(word.astype(np.int64)).mul_(high).bitwise_right_shift_(32)
        if self._device.type == "cuda":  # pinned, so that the copy does not wait for the device
            return number.pin_memory().to(self._device, non_blocking=True)
        return number


def uniform_numbers(rng: RowRng, n: int, stream: int) -> torch.Tensor:
    """`[B, n]` numbers between 0 and 1, both excluded."""
    return (rng.integers(_FINE, n, stream).to(torch.get_default_dtype()) + 0.5) / _FINE


def _mix(x: int) -> int:
    """Steele, Lea and Flood's SplitMix64 finalizer."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
