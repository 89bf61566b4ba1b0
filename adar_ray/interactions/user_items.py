"""The items that each user has interacted with, to look up for a batch at a time.

Legend: B users of a batch, K or P items, E (user, item) pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_BITS = 64  # per pair, at most
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, 2**64 over the golden ratio, as a signed 64-bit integer


class UserItems:
    """The set of observed (user, item) pairs.

    Takes 8 bytes per pair, and up to 8 more after a look-up: a bit for every possible pair if they are few
    enough for that, and else for every value of a hash, which rules out nearly all that were not observed.
    Then a look-up of shared items takes 4 more.

    Args:
        user_E, item_E: the pairs, in any order; repeated pairs count once.
        n_users, n_items: sizes of the id ranges.
    """

    def __init__(self, user_E: torch.Tensor, item_E: torch.Tensor, n_users: int, n_items: int) -> None:
        self.n_users, self.n_items = n_users, n_items
        pair_E = torch.add(item_E, user_E.to(torch.int64), alpha=n_items)
        self._pair_E = torch.unique(pair_E)  # sorted
        starts = torch.arange(n_users + 1, device=pair_E.device) * n_items
        self._start = torch.searchsorted(self._pair_E, starts)
        self._by_item: tuple[torch.Tensor, torch.Tensor] | None = None
        most = max(_BITS * len(self), 1)
        self._is_dense = n_users * n_items <= most
        self._n_bits = n_users * n_items if self._is_dense else 1 << most.bit_length() - 1
        self._bits: torch.Tensor | None = None  # made by the first look-up

    def __len__(self) -> int:
        return self._pair_E.numel()

    def to(self, device: torch.device | str) -> UserItems:
        self._pair_E, self._start, self._by_item = self._pair_E.to(device), self._start.to(device), None
        self._bits = None
        return self

    def counts(self) -> torch.Tensor:
        """The number of items of each user, `[n_users]`."""
        return self._start.diff()

    def item_counts(self) -> torch.Tensor:
        """The number of users of each item, `[n_items]`."""
        return torch.bincount(self._pair_E % self.n_items, minlength=self.n_items)

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs `(user_E, item_E)`, ordered by user, then by item."""
        return self._pair_E // self.n_items, self._pair_E % self.n_items

    def of(self, user_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The items of the given users as `(row, item)`, where `row` is the position in `user_B`."""
        row, at = _walk(self._start, user_B)
        return row, self._pair_E[at] - user_B[row].to(torch.int64) * self.n_items

    def contains(self, user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        """Whether each pair was observed, `[B, K]`."""
        if not len(self):
            return torch.zeros(len(user_B), item_BK.shape[1], dtype=torch.bool, device=item_BK.device)
        pair = (user_B.to(torch.int64)[:, None] * self.n_items + item_BK).flatten()
        found = self._may_contain(pair)
        if not self._is_dense:  # only the pairs themselves are certain
            at = found.nonzero()[:, 0]
            asked = pair[at]
            place = torch.searchsorted(self._pair_E, asked).clamp_max_(len(self) - 1)
            found[at] = self._pair_E[place] == asked
        return found.view(item_BK.shape)

    def _may_contain(self, pair: torch.Tensor) -> torch.Tensor:
        """Whether each pair's bit is set. On sparse data, a few pairs that were not observed have it set."""
        if self._bits is None:
            self._bits = self._make_bits()
        bit = self._bit(pair)
        return (self._bits.index_select(0, bit >> 3) >> (bit & 7).to(torch.uint8) & 1).bool()

    def _make_bits(self) -> torch.Tensor:
        bit_E = self._bit(self._pair_E)
        bit_E = bit_E if self._is_dense else torch.unique(bit_E)
        bits = torch.zeros(self._n_bits // 8 + 1, dtype=torch.uint8, device=bit_E.device)
        return bits.index_add_(0, bit_E >> 3, (1 << (bit_E & 7)).to(torch.uint8))

    def _bit(self, pair: torch.Tensor) -> torch.Tensor:
        """The number of each pair's bit: its own, or that of its hash, the upper bits of a product."""
        if self._is_dense:
            return pair
        return (pair * _GOLDEN >> 65 - self._n_bits.bit_length()) & self._n_bits - 1

    def contains_shared(self, user_B: torch.Tensor, item_P: torch.Tensor) -> torch.Tensor:
        """Whether each pair was observed, `[B, P]`, for items that all users share.

        On sparse data, this walks through the items' users: random items have fewer users than the active
        users of a batch have items.
        """
        different, of_B = torch.unique(user_B, return_inverse=True)
        if self._is_dense:
            return self.contains(different, item_P.expand(len(different), -1)).index_select(0, of_B)
        seen_BP = torch.zeros(len(different), len(item_P), dtype=torch.bool, device=user_B.device)
        if len(self) and len(different):
            column, user = self._users_of(item_P)
            user = user.to(different.dtype)
            row = torch.searchsorted(different, user).clamp_max_(len(different) - 1)
            asked = different[row] == user
            seen_BP[row[asked], column[asked]] = True
        return seen_BP.index_select(0, of_B)

    def seen_by(self, user_B: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function for samplers: items, `[B, K]` or shared `[P]` -> whether each pair was observed."""

        def seen(item: torch.Tensor) -> torch.Tensor:
            return self.contains_shared(user_B, item) if item.dim() == 1 else self.contains(user_B, item)

        return seen

    def _users_of(self, item_P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The users of the given items as `(column, user)`, where `column` is the position in `item_P`."""
        if self._by_item is None:
            user_E, item_E = self.pairs()
            ends = torch.bincount(item_E, minlength=self.n_items).cumsum(0)
            self._by_item = user_E[item_E.argsort()].to(torch.int32), torch.cat([ends.new_zeros(1), ends])
        user_E, start = self._by_item
        column, at = _walk(start, item_P)
        return column, user_E[at]


def _walk(start: torch.Tensor, group_G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The members of the given groups as `(position in group_G, index of the member)`.

    The members of group g have the indices from `start[g]` to `start[g + 1]`.
    """
    start_G = start[group_G]
    count_G = start[group_G + 1] - start_G
    position = torch.repeat_interleave(torch.arange(len(group_G), device=group_G.device), count_G)
    offset = torch.arange(len(position), device=group_G.device) - (count_G.cumsum(0) - count_G)[position]
    return position, start_G[position] + offset
