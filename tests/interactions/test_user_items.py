"""Look-ups of who interacted with what, against Python's sets."""

import random

import pytest
import torch

from adar_ray.interactions.user_items import UserItems

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


def test_contains_shared_says_it_for_repeated_items_and_users_in_any_order(world):
    draw = torch.Generator().manual_seed(1)
    user_B = torch.randint(world.n_users, (40,), generator=draw)
    item_P = torch.randint(world.n_items, (50,), generator=draw)
    expected = [[(u, i) in world.pairs for i in item_P.tolist()] for u in user_B.tolist()]
    assert world.seen.contains_shared(user_B, item_P).tolist() == expected


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
