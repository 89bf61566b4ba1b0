"""Look-ups of who interacted with what, against Python's sets."""

import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from adar_ray.interactions.user_items import UserItems
from adar_ray.rng import RowRng

EMPTY = torch.tensor([], dtype=torch.int64)


class World:
    """Random pairs, some of them repeated, and users without any; as a set and as `UserItems`."""

    def __init__(self, seed: int, n_users: int = 23, n_items: int = 31, rows: int = 160) -> None:
        draw = random.Random(seed)
        self.n_users, self.n_items = n_users, n_items
        rows_E = [(draw.randrange(n_users // 2) * 2, draw.randrange(n_items)) for _ in range(rows)]
        rows_E += rows_E[:20]
        draw.shuffle(rows_E)
        self.pairs = set(rows_E)
        user_E, item_E = (torch.tensor(column, dtype=torch.int32) for column in zip(*rows_E, strict=True))
        self.seen = UserItems(user_E, item_E, n_users, n_items)


@pytest.fixture(params=["dense 0", "dense 1", "sparse 0", "sparse 1"])
def world(request) -> World:
    density, seed = request.param.split()
    return World(int(seed)) if density == "dense" else World(int(seed), n_users=90, n_items=250)


def test_pairs_are_those_given_once_each_and_in_order(world):
    user_E, item_E = world.seen.pairs()
    assert list(zip(user_E.tolist(), item_E.tolist(), strict=True)) == sorted(world.pairs)
    assert len(world.seen) == len(world.pairs)


def test_counts_of_users_and_of_items(world):
    users, items = zip(*world.pairs, strict=True)
    assert world.seen.counts().tolist() == [users.count(user) for user in range(world.n_users)]
    assert world.seen.item_counts().tolist() == [items.count(item) for item in range(world.n_items)]


def test_contains_says_for_each_pair_whether_it_happened(world):
    user_B = torch.arange(world.n_users).repeat(2)
    item_BK = torch.arange(world.n_items).expand(len(user_B), -1)
    expected = [[(u, i) in world.pairs for i in range(world.n_items)] for u in user_B.tolist()]
    assert world.seen.contains(user_B, item_BK).tolist() == expected


@pytest.mark.parametrize("plainly", [False, True])
def test_contains_shared_says_it_for_repeated_items_and_users_in_any_order(world, plainly):
    draw = torch.Generator().manual_seed(1)
    item_P = torch.randint(world.n_items, (50,), generator=draw)
    for rows in (40, 40, 3):  # of other users each time: nothing is left over from those before
        user_B = torch.randint(world.n_users, (rows,), generator=draw)
        expected = [[(u, i) in world.pairs for i in item_P.tolist()] for u in user_B.tolist()]
        asked_B = user_B.to(torch.int32) if plainly else user_B  # which compiled loops cannot reach
        assert world.seen.contains_shared(asked_B, item_P).tolist() == expected


def test_threads_may_ask_for_shared_items_at_the_same_time():
    """Each needs scratch of its own: compiled loops run side by side."""
    world = World(0, n_users=2_000, n_items=300, rows=20_000)
    grid_UI = torch.zeros(2_000, 300, dtype=torch.bool)
    grid_UI[tuple(torch.tensor(sorted(world.pairs)).T)] = True
    draw = torch.Generator().manual_seed(1)
    asked = [
        (torch.randint(2_000, (256,), generator=draw), torch.randint(300, (100,), generator=draw))
        for _ in range(100)
    ]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda ids: world.seen.contains_shared(*ids), asked))
    for (user_B, item_P), seen_BP in zip(asked, found, strict=True):
        assert torch.equal(seen_BP, grid_UI[user_B][:, item_P])


def test_a_copy_answers_like_its_original(world):
    user_B, item_P = torch.arange(world.n_users), torch.arange(world.n_items)
    expected = world.seen.contains_shared(user_B, item_P)
    for copied in (deepcopy(world.seen), pickle.loads(pickle.dumps(world.seen))):
        assert torch.equal(copied.contains_shared(user_B, item_P), expected)


def test_of_lists_each_given_users_items_by_row(world):
    user_B = torch.tensor([4, 1, 0, 4, 22, 20])  # one twice, some without items
    row, item = world.seen.of(user_B)
    expected = [(b, i) for b, u in enumerate(user_B.tolist()) for v, i in sorted(world.pairs) if v == u]
    assert list(zip(row.tolist(), item.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("n_users", "n_items"), [(5, 7), (8, 16), (40, 70)])  # with bits, and too many
def test_the_first_and_last_pair_there_can_be(n_users, n_items):
    seen = UserItems(torch.tensor([0, n_users - 1]), torch.tensor([0, n_items - 1]), n_users, n_items)
    grid = seen.contains(torch.arange(n_users), torch.arange(n_items).expand(n_users, -1))
    assert grid.nonzero().tolist() == [[0, 0], [n_users - 1, n_items - 1]]
    assert torch.equal(seen.contains_shared(torch.arange(n_users), torch.arange(n_items)), grid)


def test_no_pairs_at_all():
    seen = UserItems(EMPTY, EMPTY, 3, 4)
    user_B = torch.tensor([2, 0])
    assert len(seen) == 0
    assert seen.counts().tolist() == [0, 0, 0]
    assert seen.item_counts().tolist() == [0, 0, 0, 0]
    assert [column.tolist() for column in seen.pairs()] == [[], []]
    assert [column.tolist() for column in seen.of(user_B)] == [[], []]
    assert seen.contains(user_B, torch.tensor([[0, 3], [1, 1]])).tolist() == [[False, False]] * 2
    assert seen.contains_shared(user_B, torch.arange(4)).tolist() == [[False] * 4] * 2


@pytest.mark.parametrize("n_items", [31, 3100])
def test_no_users_asked_for(n_items):
    seen = World(0, n_items=n_items).seen
    assert [column.tolist() for column in seen.of(EMPTY)] == [[], []]
    assert seen.contains(EMPTY, EMPTY.view(0, 3)).shape == (0, 3)
    assert seen.contains_shared(EMPTY, torch.arange(3)).shape == (0, 3)


def test_ids_beyond_what_32_bits_can_multiply():
    user_E = torch.tensor([2_000_000, 1_999_999], dtype=torch.int32)
    item_E = torch.tensor([3_000_000, 2_999_999], dtype=torch.int32)
    seen = UserItems(user_E, item_E, 2_000_001, 3_000_001)
    assert seen.contains(user_E, torch.tensor([[3_000_000, 2_999_999]] * 2)).tolist() == [
        [True, False],
        [False, True],
    ]
    assert seen.contains_shared(user_E, item_E.long()).tolist() == [[True, False], [False, True]]


def test_every_pair_of_a_large_sparse_world_and_all_its_neighbors():
    draw = torch.Generator().manual_seed(0)
    n_users, n_items = 3_000, 50_000
    user_E, item_E = (torch.randint(n, (20_000,), generator=draw) for n in (n_users, n_items))
    seen = UserItems(user_E, item_E, n_users, n_items)
    pairs = set(zip(user_E.tolist(), item_E.tolist(), strict=True))
    item_EK = (item_E[:, None] + torch.arange(-8, 9)) % n_items
    expected = [
        [(u, i) in pairs for i in row] for u, row in zip(user_E.tolist(), item_EK.tolist(), strict=True)
    ]
    assert seen.contains(user_E, item_EK).tolist() == expected
    assert seen.to("cpu").contains(user_E, item_EK).tolist() == expected


# Items that a user has not seen


def unseen_plainly(seen: UserItems, user_B: torch.Tensor, number_BK: torch.Tensor) -> list[torch.Tensor]:
    """As on devices that compiled loops cannot reach, for which small integers stand in here."""
    return list(seen.unseen(user_B.to(torch.int32), number_BK))


@pytest.mark.parametrize("plainly", [False, True])
def test_every_unseen_item_has_an_equal_share_of_the_numbers(world, plainly):
    """The range of numbers in equal parts, one for each of the user's unseen items in order."""
    for user in range(world.n_users):
        unseen = [item for item in range(world.n_items) if (user, item) not in world.pairs]
        edges = [
            -(-(place << 31) // len(unseen)) for place in range(len(unseen) + 1)
        ]  # where each part begins
        number_BK = torch.tensor([[first, last - 1] for first, last in pairwise(edges)])
        user_B = torch.full((len(number_BK),), user)
        look_up = unseen_plainly if plainly else UserItems.unseen
        item_BK, found_BK = look_up(world.seen, user_B, number_BK)
        assert item_BK.tolist() == [[item, item] for item in unseen]
        assert found_BK.all()


def test_unseen_items_are_those_of_each_rows_user(world):
    draw = torch.Generator().manual_seed(2)
    user_B = torch.randint(world.n_users, (300,), generator=draw)
    number_BK = torch.randint(1 << 31, (300, 7), generator=draw)
    item_BK, found_BK = world.seen.unseen(user_B, number_BK)
    assert found_BK.all()
    assert not world.seen.contains(user_B, item_BK).any()
    for ours, plain in zip((item_BK, found_BK), unseen_plainly(world.seen, user_B, number_BK), strict=True):
        assert torch.equal(ours, plain)


def test_unseen_items_are_uniform():
    world = World(0)
    numbers = RowRng(torch.arange(3000), 1).integers(1 << 31, 10)
    item_BK, _ = world.seen.unseen(torch.full((3000,), 4), numbers)
    unseen = [item for item in range(world.n_items) if (4, item) not in world.pairs]
    count_I = torch.bincount(item_BK.flatten(), minlength=world.n_items)
    assert count_I.nonzero()[:, 0].tolist() == unseen
    assert chisquare(count_I[unseen].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("look_up", [UserItems.unseen, unseen_plainly])
def test_a_user_who_has_seen_everything_has_no_unseen_item(look_up):
    seen = UserItems(torch.tensor([1, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 3, 3)
    number_BK = torch.tensor([[0, (1 << 31) - 1]] * 3)
    item_BK, found_BK = look_up(seen, torch.tensor([1, 0, 2]), number_BK)
    assert found_BK.tolist() == [[False] * 2, [True] * 2, [True] * 2]
    assert item_BK[1:].tolist() == [[0, 2], [0, 1]]
    assert ((item_BK >= 0) & (item_BK < 3)).all()


def test_unseen_items_of_nobody_and_of_users_without_any_pair():
    seen = UserItems(EMPTY, EMPTY, 3, 4)
    for look_up in (UserItems.unseen, unseen_plainly):
        assert look_up(seen, EMPTY, EMPTY.view(0, 3))[0].shape == (0, 3)
        item_BK, found_BK = look_up(seen, torch.tensor([2]), torch.tensor([[0, 1 << 29, (1 << 31) - 1]]))
        assert item_BK.tolist() == [[0, 1, 3]]
        assert found_BK.all()


def test_of_very_many_pairs_contains_is_the_same_compiled_and_plain(world):
    draw = torch.Generator().manual_seed(3)
    user_B = torch.randint(world.n_users, (200,), generator=draw)
    item_BK = torch.randint(world.n_items, (200, 9), generator=draw)
    expected = [
        [(u, i) in world.pairs for i in row] for u, row in zip(user_B.tolist(), item_BK.tolist(), strict=True)
    ]
    for dtype in (torch.int64, torch.int32):
        assert world.seen.contains(user_B.to(dtype), item_BK).tolist() == expected


@pytest.mark.parametrize(
    ("user", "item", "says"),
    [
        ([0, 1], [7, 123456], "item 123456: ids run from 0 to 99, because n_items is 100"),
        ([0, 1], [7, -1], "item -1: ids"),
        ([0, 10], [7, 8], "user 10: ids run from 0 to 9, because n_users is 10"),
        ([0, 1], [7], "there are 2 users and 1 items"),
        ([0.0, 1.0], [7, 8], "users are float32 of shape [2]; give whole numbers"),
        ([[0, 1]], [7, 8], "users are int64 of shape [1, 2]"),
    ],
)
def test_pairs_that_cannot_be_are_refused(user, item, says):
    """An item beyond the catalog would be another user's."""
    with pytest.raises(ValueError, match=re.escape(says)):
        UserItems(torch.tensor(user), torch.tensor(item), 10, 100)


def test_pairs_may_be_lists_or_arrays():
    for make in (list, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.uint32)):
        observed = UserItems(make([0, 1]), make([7, 8]), 10, 100)
        assert [ids.tolist() for ids in observed.pairs()] == [[0, 1], [7, 8]]


def test_users_that_cannot_be_are_refused():
    observed = UserItems(torch.tensor([0, 1]), torch.tensor([7, 8]), 10, 100)
    with pytest.raises(ValueError, match="user 10: ids run from 0 to 9"):
        observed.seen_by(torch.tensor([3, 10]))
    with pytest.raises(ValueError, match="there are 1 users for 2 rows of items"):
        observed.seen_by(torch.tensor([3]))(torch.tensor([[1], [2]]))
    with pytest.raises(ValueError, match="there are 1 users for 2 rows of items"):
        observed.seen_by(torch.tensor([3])).draw_others(torch.tensor([[1], [2]]))


@pytest.mark.parametrize("n_items", [100, 100_000])  # with bits, and without
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    ("user", "item", "says"),
    [
        (10**9, 3, "user 1000000000: ids run from 0 to 9, because n_users is 10"),
        (-1, 3, "user -1: ids"),
        (3, -1, "item -1: ids"),
        (3, 10**9, "item 1000000000: ids run from 0 to {last}"),
        (3, "n_items", "item {n_items}: ids run from 0 to {last}, because n_items is {n_items}"),
    ],
)
def test_ids_out_of_range_are_not_looked_up(n_items, dtype, user, item, says):
    """They would be answered for another user, or from memory that is not ours."""
    observed = UserItems(torch.arange(10), torch.arange(10), 10, n_items)
    user_B = torch.tensor([2, user], dtype=dtype)
    item_P = torch.tensor([2, n_items if item == "n_items" else item], dtype=dtype)
    match = re.escape(says.format(n_items=n_items, last=n_items - 1))
    with pytest.raises(ValueError, match=match):
        observed.contains(user_B, item_P[:, None])
    with pytest.raises(ValueError, match=match):
        observed.contains_shared(user_B, item_P)
    if says.startswith("user"):
        with pytest.raises(ValueError, match=match):
            observed.unseen(user_B, torch.zeros(2, 1, dtype=torch.int64))
