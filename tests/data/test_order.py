"""The order of training rows: each once per epoch, and the same for any number of workers."""

from collections import Counter

import numpy as np
import pytest

from adar_ray.data.order import LANES, batches, rows_per_batch, shard_order, stripe
from adar_ray.interactions import PADDING

SHARDS = [[200, 64, 1, 130], [1], [0, 3], [127, 0, 64, 65], [997, 991], [5] * 9]
Row = tuple[int, int]


def shard_of(shard: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ in every user and item, so that a row is known by either."""
    user = np.arange(rows, dtype=np.int32) + 10_000 * shard
    return user, user * 7 % 1_000_003


def worker_batches(
    shard_rows: list[int], batch: int, seed: int, epoch: int, worker: int, workers: int
) -> list[dict[int, Row]]:
    """One worker's batches: the slot of the whole batch that each row takes, and the row."""
    stripes = (
        stripe(*shard_of(int(s), shard_rows[s]), seed, epoch, int(s), worker, workers)
        for s in shard_order(len(shard_rows), seed, epoch)
    )
    return [
        {
            slot * workers + worker: (int(u), int(i))
            for slot, (u, i) in enumerate(zip(user, item, strict=True))
            if u != PADDING
        }
        for user, item in batches(stripes, batch // workers)
    ]


def whole_batches(
    shard_rows: list[int], batch: int, seed: int, epoch: int, workers: int
) -> list[dict[int, Row]]:
    """The batches of all workers together."""
    parts = [worker_batches(shard_rows, batch, seed, epoch, w, workers) for w in range(workers)]
    merged = []
    for step in zip(*parts, strict=True):  # strict: every worker takes equally many steps
        merged.append({slot: row for part in step for slot, row in part.items()})
        assert len(merged[-1]) == sum(len(part) for part in step)
    return merged


def all_rows(shard_rows: list[int]) -> Counter:
    pairs = [shard_of(shard, rows) for shard, rows in enumerate(shard_rows)]
    return Counter((int(u), int(i)) for user, item in pairs for u, i in zip(user, item, strict=True))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 7, 64])
@pytest.mark.parametrize("shard_rows", SHARDS, ids=str)
def test_every_row_once_per_epoch_in_equally_many_steps(shard_rows, workers):
    merged = whole_batches(shard_rows, 12 * workers, 0, 1, workers)
    assert Counter(row for batch in merged for row in batch.values()) == all_rows(shard_rows)


@pytest.mark.parametrize("batch", [64, 100, 4096])
@pytest.mark.parametrize("shard_rows", SHARDS, ids=str)
def test_batches_are_the_same_for_one_two_and_four_workers(shard_rows, batch):
    alone = whole_batches(shard_rows, batch, 3, 2, 1)
    assert whole_batches(shard_rows, batch, 3, 2, 2) == alone
    assert whole_batches(shard_rows, batch, 3, 2, 4) == alone


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("per_worker", [1, 30, 64, 3000])
@pytest.mark.parametrize("shard_rows", SHARDS, ids=str)
def test_rows_per_batch_matches_counting(shard_rows, per_worker, workers):
    batch = per_worker * workers
    counted = [len(rows) for rows in whole_batches(shard_rows, batch, 1, 5, workers)]
    assert rows_per_batch(shard_rows, batch, 1, 5, workers).tolist() == counted


def test_rows_per_batch_is_exact_for_very_many_rows():
    shard_rows = [2**40 + 1, 2**40 + 63]
    rows = rows_per_batch(shard_rows, 2**39, 0, 1, 1)
    assert rows.sum() == 2**41 + 64
    assert rows[0] == 2**39


def test_epochs_and_seeds_have_different_but_repeatable_orders():
    def order(seed: int, epoch: int) -> list[Row]:
        return [row for batch in whole_batches([200, 150, 170], 64, seed, epoch, 1) for row in batch.values()]

    orders = [order(0, 1), order(0, 2), order(1, 1)]
    assert len({tuple(rows) for rows in orders}) == 3
    assert [order(0, 1), order(0, 2), order(1, 1)] == orders


def test_shards_are_visited_in_every_order():
    first = Counter(int(shard_order(4, 0, epoch)[0]) for epoch in range(400))
    assert set(first) == {0, 1, 2, 3}
    assert min(first.values()) > 60


def test_rows_of_a_shard_are_shuffled_evenly():
    """Where the first row of a shard ends up is uniform over the places there are."""
    user, item = shard_of(0, 5)
    place = Counter(int(np.flatnonzero(stripe(user, item, 0, e, 0, 0, 1)[0] == 0)[0]) for e in range(1000))
    assert set(place) == set(range(5))
    assert min(place.values()) > 150


def test_stripe_is_padded_to_whole_lanes_at_its_end():
    user, item = stripe(*shard_of(0, 70), 0, 1, 0, 0, 1)
    assert len(user) == len(item) == 2 * LANES
    assert (user[70:] == PADDING).all()
    assert (item[70:] == PADDING).all()
    assert (user[:70] != PADDING).all()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_sequence_rows_take_the_slots_of_their_users(workers):
    """Every item of a sequence row tells whose it is, so that the order of users is the order of rows."""
    shard_rows, per_worker = [130, 7, 64], 12
    shards = [shard_of(shard, rows)[0] for shard, rows in enumerate(shard_rows)]
    for worker in range(workers):
        stripes = (
            stripe(user, user[:, None] * 3 + np.arange(3), 4, 1, shard, worker, workers)
            for shard, user in enumerate(shards)
        )
        pairs = (stripe(user, user, 4, 1, shard, worker, workers) for shard, user in enumerate(shards))
        for (user, item), (expected, _) in zip(
            batches(stripes, per_worker), batches(pairs, per_worker), strict=True
        ):
            assert item.dtype == np.int32
            empty = user == PADDING
            assert np.array_equal(user, expected)
            assert (item[empty] == PADDING).all()
            assert np.array_equal(item[~empty], user[~empty, None] * 3 + np.arange(3))


def test_batches_have_equal_size_except_the_last():
    lengths, size = [5, 0, 1, 9, 2, 20, 3], 6
    numbers = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    cut = list(batches(((part, part + 100) for part in numbers), size))
    assert [len(user) for user, _ in cut] == [6] * 6 + [4]
    assert np.concatenate([user for user, _ in cut]).tolist() == list(range(40))
    assert all((item == user + 100).all() for user, item in cut)


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_no_rows_give_no_batches(lengths):
    assert list(batches(((np.zeros(n), np.zeros(n)) for n in lengths), 4)) == []


def test_no_empty_batch_after_full_ones():
    assert [len(user) for user, _ in batches(((np.ones(6), np.ones(6)) for _ in range(2)), 4)] == [4, 4, 4]


def test_batches_are_yielded_as_soon_as_they_are_full():
    def stripes():
        yield np.ones(5), np.ones(5)
        raise AssertionError("asked for more than the first batch needs")

    assert len(next(batches(stripes(), 5))[0]) == 5
