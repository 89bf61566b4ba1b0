"""The items that each user has interacted with, to look up for a batch at a time.

Legend: B users of a batch, K or P items, E (user, item) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adar_ray import kernels


class UserItems:
    """The set of observed (user, item) pairs. Takes 8 bytes per pair, 8 more once unseen items are asked for,
    and 4 more after a look-up of shared items.

    Dense data also gets a bit for every possible pair, if that takes no more memory than the pairs. Threads
    may ask at the same time.

    Args:
        user_E, item_E: the pairs, in any order; repeated pairs count once.
        n_users, n_items: sizes of the id ranges.

    Raises:
        ValueError: an id is out of its range, or is no whole number.
    """

    def __init__(self, user_E: torch.Tensor, item_E: torch.Tensor, n_users: int, n_items: int) -> None:
        self.n_users, self.n_items = n_users, n_items
        user_E, item_E = _checked("user", user_E, n_users), _checked("item", item_E, n_items)
        if len(user_E) != len(item_E):
            raise ValueError(
                f"there are {len(user_E)} users and {len(item_E)} items; give one of each for a pair"
            )
        pair_E = user_E.to(torch.int64, copy=True).mul_(n_items).add_(item_E)
        self._pair_E = _sorted_distinct(pair_E)
        starts = torch.arange(n_users + 1, device=pair_E.device) * n_items
        self._start = torch.searchsorted(self._pair_E, starts)
        self._rank_E: torch.Tensor | None = None
        self._by_item: tuple[torch.Tensor, torch.Tensor] | None = None
        self._free: list[np.ndarray] = []  # scratch of `contains_shared`, while no thread has it
        self._bits: torch.Tensor | None = None
        if n_users * n_items <= 64 * len(self):
            self._bits = torch.zeros(n_users * n_items // 8 + 1, dtype=torch.uint8, device=pair_E.device)
            self._bits.index_add_(0, self._pair_E >> 3, (1 << (self._pair_E & 7)).to(torch.uint8))

    def __len__(self) -> int:
        return self._pair_E.numel()

    def to(self, device: torch.device | str) -> UserItems:
        self._pair_E, self._start = self._pair_E.to(device), self._start.to(device)
        self._rank_E, self._by_item = None, None
        self._bits = None if self._bits is None else self._bits.to(device)
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

    def places(self, user_N: torch.Tensor, item_N: torch.Tensor) -> torch.Tensor:
        """The positions `[N]` of observed pairs among all `pairs`."""
        return torch.searchsorted(self._pair_E, user_N.to(torch.int64) * self.n_items + item_N)

    def of(self, user_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The items of the given users as `(row, item)`, where `row` is the position in `user_B`."""
        row, at = _walk(self._start, user_B)
        return row, self._pair_E[at] - user_B[row].to(torch.int64) * self.n_items

    def contains(self, user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        """Whether each pair was observed, `[B, K]`.

        Raises:
            ValueError: there is no user for each row, or, on a CPU, an id is out of its range.
        """
        _check_rows(user_B, item_BK)
        self._check_ranges(user_B, item_BK)
        if not len(self):
            return torch.zeros(len(user_B), item_BK.shape[1], dtype=torch.bool, device=item_BK.device)
        pair_BK = user_B.to(torch.int64)[:, None] * self.n_items + item_BK
        if self._bits is not None:
            return (self._bits[pair_BK >> 3] >> (pair_BK & 7).to(torch.uint8) & 1).bool()
        if kernels.runs_compiled(self._pair_E, user_B, item_BK):
            found_BK = torch.empty_like(item_BK, dtype=torch.bool)
            kernels.contains(*self.arrays(), *(tensor.numpy() for tensor in (user_B, item_BK, found_BK)))
            return found_BK
        at_BK = torch.searchsorted(self._pair_E, pair_BK).clamp_max_(len(self) - 1)
        return self._pair_E[at_BK] == pair_BK

    def unseen(self, user_B: torch.Tensor, number_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items that the users have not interacted with, all equally likely: one look-up, nothing redrawn.

        Args:
            number_BK: random integers in `[0, 2**31)`.

        Returns:
            Items `[B, K]`, and False where there is none, because the user has seen all items.

        Raises:
            ValueError: there is no user for each row, or, on a CPU, a user is out of range.
        """
        _check_rows(user_B, number_BK)
        self._check_ranges(user_B)
        if kernels.runs_compiled(self._pair_E, user_B, number_BK):
            item_BK, found_BK = torch.empty_like(number_BK), torch.empty_like(number_BK, dtype=torch.bool)
            tensors = (user_B, number_BK, item_BK, found_BK)
            kernels.unseen(*self.arrays(), *(tensor.numpy() for tensor in tensors))
            return item_BK, found_BK
        if self._rank_E is None:
            # How many unseen items of the user come before each seen one; like the pairs, in order.
            place_E = torch.arange(len(self), device=self._pair_E.device)
            self._rank_E = self._pair_E - place_E + self._start[self._pair_E // self.n_items]
        start_B1 = self._start[user_B, None]
        count_B1 = self._start[user_B + 1, None] - start_B1
        rank_BK = number_BK * (self.n_items - count_B1) >> 31
        # The item is its rank among the unseen plus the number of seen items that come before it.
        wanted_BK = rank_BK + user_B.to(torch.int64)[:, None] * self.n_items
        before_BK = torch.searchsorted(self._rank_E, wanted_BK, right=True) - start_B1
        has_any_B1 = count_B1 < self.n_items
        return (rank_BK + before_BK).clamp_max_(self.n_items - 1), has_any_B1.expand_as(rank_BK)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """For `kernels`: where each user's pairs begin, `[n_users + 1]`; the pairs as numbers
        `user * n_items + item`, in order, `[E]`; their bits, empty if there are none; and `n_items`."""
        bits = np.empty(0, np.uint8) if self._bits is None else self._bits.numpy()
        return self._start.numpy(), self._pair_E.numpy(), bits, self.n_items

    def contains_shared(self, user_B: torch.Tensor, item_P: torch.Tensor) -> torch.Tensor:
        """Whether each pair was observed, `[B, P]`, for items that all users share.

        This walks through the items' users: random items have fewer users than the users of a batch have
        items.

        Raises:
            ValueError: on a CPU, an id is out of its range.
        """
        self._check_ranges(user_B, item_P)
        if kernels.runs_compiled(self._pair_E, user_B, item_P):
            try:
                place_U = self._free.pop()
            except IndexError:
                place_U = np.full(self.n_users, -1, np.int32)
            seen_BP = torch.zeros(len(user_B) + 1, len(item_P), dtype=torch.bool)  # and a row for other users
            tensors = (*self.users_by_item(), item_P, user_B.contiguous(), seen_BP)
            kernels.contains_shared(*(tensor.numpy() for tensor in tensors), place_U)
            self._free.append(place_U)
            return seen_BP[:-1]
        different, of_B = torch.unique(user_B, return_inverse=True)
        if self._bits is not None:
            return self.contains(different, item_P.expand(len(different), -1)).index_select(0, of_B)
        seen_BP = torch.zeros(len(different), len(item_P), dtype=torch.bool, device=user_B.device)
        if len(self) and len(different):
            start, user_E = self.users_by_item()
            column, at = _walk(start, item_P)
            user = user_E[at].to(different.dtype)
            row = torch.searchsorted(different, user).clamp_max_(len(different) - 1)
            asked = different[row] == user
            seen_BP[row[asked], column[asked]] = True
        return seen_BP.index_select(0, of_B)

    @kernels.untraced
    def seen_by(self, user_B: torch.Tensor) -> SeenItems:
        """What a batch's users have interacted with, for samplers.

        Raises:
            ValueError: on a CPU, a user is out of range, or is no whole number.
        """
        user_B = torch.as_tensor(user_B)
        if not user_B.is_cuda:
            _checked("user", user_B, self.n_users)
        return SeenItems(self, user_B)

    def users_by_item(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each item's users begin, `[n_items + 1]`, and the users of all items, `[E]`."""
        if self._by_item is None and kernels.runs_compiled(self._pair_E):
            start_I = torch.zeros(self.n_items + 1, dtype=torch.int64)
            by_item = start_I, torch.empty(len(self), dtype=torch.int32)
            tensors = (self._start, self._pair_E, *by_item)
            kernels.users_by_item(*(tensor.numpy() for tensor in tensors))
            self._by_item = by_item  # filled: other threads may look at once
        elif self._by_item is None:
            user_E, item_E = self.pairs()
            ends = torch.bincount(item_E, minlength=self.n_items).cumsum(0)
            self._by_item = torch.cat([ends.new_zeros(1), ends]), user_E[item_E.argsort()].to(torch.int32)
        return self._by_item

    def _check_ranges(self, user_B: torch.Tensor, item: torch.Tensor | None = None) -> None:
        """Refuses ids that compiled loops would follow out of their arrays.

        Not on a GPU, which would have to be waited for.
        """
        if not user_B.is_cuda:
            _check_range("user", user_B, self.n_users)
            if item is not None:
                _check_range("item", item, self.n_items)


def _check_rows(user_B: torch.Tensor, value_BK: torch.Tensor) -> None:
    if len(user_B) != len(value_BK):
        raise ValueError(
            f"there are {len(user_B)} users for {len(value_BK)} rows of items; give a row for each user"
        )


def _checked(what: str, id_E: torch.Tensor, count: int) -> torch.Tensor:
    """Ids as a tensor. One out of range would count as another user's pair."""
    id_E = torch.as_tensor(id_E)
    if id_E.dim() != 1 or id_E.dtype == torch.bool or id_E.is_floating_point():
        kind = f"{str(id_E.dtype).removeprefix('torch.')} of shape {list(id_E.shape)}"
        raise ValueError(f"{what}s are {kind}; give whole numbers, one for each pair")
    if id_E.dtype in (torch.uint16, torch.uint32, torch.uint64):  # torch computes little with these
        id_E = id_E.to(torch.int64)
    _check_range(what, id_E, count)
    return id_E


def _check_range(what: str, id: torch.Tensor, count: int) -> None:
    if id.numel():
        for end in map(int, id.aminmax()):
            if not 0 <= end < count:
                raise ValueError(f"{what} {end}: ids run from 0 to {count - 1}, because n_{what}s is {count}")


@dataclass(frozen=True)
class SeenItems:
    """The items that the users of a batch have interacted with.

    Calling it with items, `[B, K]` or, shared, `[P]`, tells whether each pair was observed.
    """

    observed: UserItems
    user_B: torch.Tensor

    def __call__(self, item: torch.Tensor) -> torch.Tensor:
        if item.dim() == 1:
            return self.observed.contains_shared(self.user_B, item)
        return self.observed.contains(self.user_B, item)

    def draw_others(self, number_BK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Other items; see `UserItems.unseen`."""
        return self.observed.unseen(self.user_B, number_BK)


def _walk(start: torch.Tensor, group_G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The members of the given groups as `(position in group_G, index of the member)`.

    The members of group g have the indices from `start[g]` to `start[g + 1]`.
    """
    start_G = start[group_G]
    count_G = start[group_G + 1] - start_G
    position = torch.repeat_interleave(torch.arange(len(group_G), device=group_G.device), count_G)
    offset = torch.arange(len(position), device=group_G.device) - (count_G.cumsum(0) - count_G)[position]
    return position, start_G[position] + offset


def _sorted_distinct(number_E: torch.Tensor) -> torch.Tensor:
    """The numbers in order, each once. Those given may be in another order afterwards."""
    if number_E.device.type != "cpu":
        return torch.unique(number_E)
    # In place, and by a method that makes use of order: pairs come by user, shard by shard.
    number_E.numpy().sort(kind="stable")
    is_first_E = torch.ones_like(number_E, dtype=torch.bool)
    torch.ne(number_E[1:], number_E[:-1], out=is_first_E[1:])
    return number_E if is_first_E.all() else number_E[is_first_E]
