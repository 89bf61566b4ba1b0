"""Which items each user has interacted with, for look-ups a batch at a time.

Legend: B users of a batch, K or P items, E (user, item) pairs.
"""

from __future__ import annotations

import torch


class UserItems:
    """The set of (user, item) pairs that happened, sorted; 8 bytes a pair.

    Args:
        user_E, item_E: the pairs, in any order, repeated or not.
        n_users, n_items: sizes of the id ranges.
    """

    def __init__(self, user_E: torch.Tensor, item_E: torch.Tensor, n_users: int, n_items: int) -> None:
        self.n_users, self.n_items = n_users, n_items
        pair_E = user_E.to(torch.int64) * n_items + item_E.to(torch.int64)
        self._pair_E = torch.unique(pair_E)  # sorted
        starts = torch.arange(n_users + 1, device=pair_E.device) * n_items
        self._start = torch.searchsorted(self._pair_E, starts)

    def __len__(self) -> int:
        return self._pair_E.numel()

    def to(self, device: torch.device | str) -> UserItems:
        self._pair_E, self._start = self._pair_E.to(device), self._start.to(device)
        return self

    def counts(self) -> torch.Tensor:
        """`[n_users]` items of each user."""
        return self._start.diff()

    def item_counts(self) -> torch.Tensor:
        """`[n_items]` users of each item."""
        return torch.bincount(self._pair_E % self.n_items, minlength=self.n_items)

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs `(user_E, item_E)`, by user, then by item."""
        return self._pair_E // self.n_items, self._pair_E % self.n_items

    def of(self, user_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items of each given user as `(row, item)`: the position in `user_B`, and the item."""
        start_B = self._start[user_B]
        count_B = self._start[user_B + 1] - start_B
        row = torch.repeat_interleave(torch.arange(len(user_B), device=user_B.device), count_B)
        offset = torch.arange(len(row), device=user_B.device) - (count_B.cumsum(0) - count_B)[row]
        item = self._pair_E[start_B[row] + offset] - user_B[row].to(torch.int64) * self.n_items
        return row, item

    def contains(self, user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        """`[B, K]`: whether the pair happened."""
        if not len(self):
            return torch.zeros(len(user_B), item_BK.shape[1], dtype=torch.bool, device=item_BK.device)
        pair_BK = user_B.to(torch.int64)[:, None] * self.n_items + item_BK
        at_BK = torch.searchsorted(self._pair_E, pair_BK).clamp_max_(len(self) - 1)
        return self._pair_E[at_BK] == pair_BK

    def contains_shared(self, user_B: torch.Tensor, item_P: torch.Tensor) -> torch.Tensor:
        """`[B, P]`: the same for items that all users have in common.

        Walks the users' own items, which are few, instead of asking for all B x P pairs.
        """
        different, of_B = torch.unique(user_B, return_inverse=True)  # active users stand in a batch often
        row, item = self.of(different)
        column_of_item = torch.full((self.n_items,), -1, device=item_P.device)
        column_P = torch.arange(len(item_P), device=item_P.device)
        column_of_item[item_P] = column_P
        column = column_of_item[item]
        asked = column >= 0
        seen_BP = torch.zeros(len(different), len(item_P), dtype=torch.bool, device=user_B.device)
        seen_BP[row[asked], column[asked]] = True
        # An item that stands there several times has been found in one of its columns.
        found_P = column_of_item[item_P]
        again = (found_P != column_P).nonzero()[:, 0]
        seen_BP[:, again] = seen_BP[:, found_P[again]]
        return seen_BP.index_select(0, of_B)
