"""Users' histories as rows of equal length, for sequential models.

Legend: E training interactions of a shard, U its users, R rows, L longest history, N = L + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adar_ray.data.sorting import runs
from adar_ray.errors import AdarError
from adar_ray.interactions import PADDING
from adar_ray.limits import LONGEST_HISTORY, check_number

DEFAULT_LENGTH = 50


@dataclass(frozen=True)
class Windows:
    """Which parts of a user's n training items become rows.

    Windows end at n, n - stride, n - 2 stride, ... as long as they hold at least 2 items, and reach back
    L + 1 items. The targets of a row are its last `stride` items, each predicted from the items before it, so
    every item but the user's first is a target exactly once. With stride L, rows overlap in a single item;
    with stride 1, every target has its own row, with the longest history that fits.

    Args:
        length: L, from 1 to `LONGEST_HISTORY`.
        stride: from 1 to L.
    """

    length: int = DEFAULT_LENGTH
    stride: int = DEFAULT_LENGTH

    def __post_init__(self) -> None:
        check_number("--sequence-length", self.length, 1, LONGEST_HISTORY)
        if not 1 <= self.stride <= self.length:
            raise AdarError(
                f"--sequence-stride {self.stride} would skip items: "
                f"give 1 to {self.length}, the --sequence-length"
            )

    def rows(self, user_E: np.ndarray, item_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows `(user_R, item_RN)` by user and time; items oldest first, `PADDING` on the left.

        Args:
            user_E, item_E: training interactions, sorted by user and time.
        """
        N = self.length + 1
        start_U, count_U = runs(user_E)
        rows_U = (count_U - 2) // self.stride + 1  # none for a single item
        of_R = np.repeat(np.arange(len(start_U)), rows_U)
        windows_after_R = np.cumsum(rows_U)[of_R] - 1 - np.arange(len(of_R))
        size_R = count_U[of_R] - windows_after_R * self.stride  # the user's items up to the row's end
        padded_E = np.concatenate([np.full(N, PADDING, np.int32), item_E.astype(np.int32)])
        # Window e of the view holds the N items before item e, including items of earlier users.
        item_RN = np.lib.stride_tricks.sliding_window_view(padded_E, N)[start_U[of_R] + size_R]
        item_RN[np.arange(N, 0, -1) > size_R[:, None]] = PADDING
        return user_E[start_U[of_R]].astype(np.int32), item_RN
