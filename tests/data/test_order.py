"""The order of training rows: each once per epoch, and in the same batches for any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from adar_ray.data.lanes import lane_range
from adar_ray.data.order import Batch, arrange, batches, rows_before, shard_order, steps_per_epoch
from adar_ray.errors import AdarError

LANES = 64


class World:
    """Rows of lanes, sorted by user, in some shards of all lanes. Items tell the rows apart.

    Args:
        lane_rows: rows of each lane; a lane has three users.
    """

    def __init__(self, lane_rows: list[int], shards: int = 3, length: int = 0) -> None:
        self.lane_rows, self.bounds = np.array(lane_rows), np.arange(len(lane_rows) + 1) * 3
        draw = np.random.default_rng(0)
        user = np.repeat(np.arange(len(lane_rows)) * 3, lane_rows) + draw.integers(0, 3, sum(lane_rows))
        item = np.arange(len(user), dtype=np.int32)
        if length:
            item = item[:, None] * length + np.arange(length, dtype=np.int32)
        shard = draw.integers(0, shards, len(user))
        self.shards = []
        for number in range(shards):
            at = np.flatnonzero(shard == number)
            at = at[np.argsort(user[at], kind="stable")]
            self.shards.append((user[at].astype(np.int32), item[at]))

    def chunks(self, worker: int, workers: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first, last = lane_range(worker, workers, len(self.lane_rows))
        bounds = self.bounds[first : last + 1]
        for number in shard_order(len(self.shards), 3, epoch, 0):
            user, item = self.shards[number]
            mine = slice(*np.searchsorted(user, [bounds[0], bounds[-1]]))
            yield arrange(user[mine], item[mine], bounds, first, 3, epoch, int(number))

    def batches(self, worker: int, workers: int, size: int, epoch: int = 1, done: int = 0) -> list[Batch]:
        first, last = lane_range(worker, workers, len(self.lane_rows))
        chunks, bounds = self.chunks(worker, workers, epoch), self.bounds[first : last + 1]
        return list(batches(chunks, bounds, first, self.lane_rows, size, done))

    def whole_batches(self, workers: int, size: int, epoch: int = 1) -> list[list[tuple[int, ...]]]:
        """The rows of each step, in the order of the workers."""
        parts = [self.batches(worker, workers, size, epoch) for worker in range(workers)]
        steps = []
        for step in zip(*parts, strict=True):  # strict: all workers take equally many steps
            rows = [row for batch in step for row in rows_of(batch)]
            assert [batch.first for batch in step] == [
                sum(len(batch.user) for batch in step[:worker]) for worker in range(workers)
            ]
            assert {batch.rows for batch in step} == {len(rows)}
            steps.append(rows)
        return steps

    def rows(self) -> list[tuple[int, ...]]:
        return sorted(row for user, item in self.shards for row in rows_of(Batch(user, item, 0, 0)))


def rows_of(batch: Batch) -> list[tuple[int, ...]]:
    items = [np.atleast_1d(item).tolist() for item in batch.item]
    return [(user, *item) for user, item in zip(batch.user.tolist(), items, strict=True)]


def random_lanes(seed: int, most: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, most, LANES).tolist()


WORLDS = {
    "many": random_lanes(0, 60),
    "few": random_lanes(1, 3),
    "one lane": [0] * 20 + [131] + [0] * 43,
    "first and last": [7] + [0] * 62 + [50],
    "one row": [0] * 63 + [1],
}


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("size", [9, 40, 100, 10_000])
@pytest.mark.parametrize("name", WORLDS)
def test_every_row_once_an_epoch_and_in_the_same_batch_for_any_number_of_workers(name, size, workers):
    world = World(WORLDS[name])
    batches = world.whole_batches(workers, size)
    assert sorted(row for rows in batches for row in rows) == world.rows()
    assert batches == world.whole_batches(1, size)


def test_a_batch_without_rows_has_their_shape():
    bounds, lane_rows = np.arange(3), np.array([1, 0, 0, 3])
    (first, *_) = batches(iter([]), bounds, 1, lane_rows, 1, row_shape=(5,))
    assert first.item.shape == (0, 5)


@pytest.mark.parametrize("name", WORLDS)
def test_an_epoch_goes_on_at_any_step(name):
    world = World(WORLDS[name])
    whole = world.batches(2, 5, 9)
    for done in {0, 1, len(whole) // 2, len(whole)}:
        rest = world.batches(2, 5, 9, done=done)
        for one, expected in zip(rest, whole[done:], strict=True):
            assert rows_of(one) == rows_of(expected)
            assert (one.first, one.rows) == (expected.first, expected.rows)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_rows_of_sequences_are_visited_like_any_others(workers):
    world = World(WORLDS["few"], length=4)
    batches = world.whole_batches(workers, 20)
    assert sorted(row for rows in batches for row in rows) == world.rows()
    pairs = World(WORLDS["few"]).whole_batches(workers, 20)
    assert [[(user, item[0] // 4) for user, *item in rows] for rows in batches] == pairs


@pytest.mark.parametrize("size", [40, 64, 100, 500])
@pytest.mark.parametrize("name", WORLDS)
def test_batches_are_equally_large_but_for_rounding(name, size):
    """Lanes that have rows round at steps of their own, so that no batch gets all of their last rows."""
    world = World(WORLDS[name])
    rows = [batch.rows for batch in world.batches(0, 1, size)]
    mean = world.lane_rows.sum() / len(rows)
    assert len(rows) == steps_per_epoch(int(world.lane_rows.sum()), size) == -(-sum(WORLDS[name]) // size)
    assert mean <= size
    assert max(abs(count - mean) for count in rows) <= max(1, 0.2 * mean)


def test_every_step_has_its_share_of_every_lane():
    lane_rows = np.array(WORLDS["many"])
    for steps in (1, 3, 50):
        before = np.stack([rows_before(lane_rows, step, steps) for step in range(steps + 1)])
        assert not before[0].any()
        assert (before[-1] == lane_rows).all()
        share = np.diff(before, axis=0) - lane_rows / steps
        assert abs(share).max() < 1


def test_shares_are_exact_for_very_many_rows():
    lane_rows = np.full(64, 2**38 + 5)
    steps = 2**22 + 1
    assert rows_before(lane_rows, steps, steps).tolist() == lane_rows.tolist()
    middle = [
        (steps // 2 * rows + lane * steps // 64) // steps for lane, rows in enumerate(lane_rows.tolist())
    ]
    assert rows_before(lane_rows, steps // 2, steps).tolist() == middle


def test_a_batch_is_given_as_soon_as_its_rows_are_there():
    user, item = np.zeros(5, np.int32), np.arange(5)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield user, item
        raise AssertionError("asked for more than the first batch needs")

    first = next(batches(chunks(), np.array([0, 1]), 0, np.array([10]), 5))
    assert first.item.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("chunks", "says"),
    [([3], "fewer"), ([2, 1], "fewer"), ([5], "more"), ([4, 1], "more"), ([2, 2, 0, 1], "more")],
)
def test_a_lane_with_other_rows_than_the_dataset_says_is_refused(chunks, says):
    """Also where all that it says have been visited already."""
    parts = [(np.zeros(rows, np.int32), np.arange(rows)) for rows in chunks]
    with pytest.raises(AdarError, match=f"a lane has {says} rows than it should; prepare again"):
        list(batches(parts, np.array([0, 1]), 0, np.array([4]), 2))


@pytest.mark.parametrize("lane_rows", [[0] * 64, [0]])
def test_no_rows_give_no_batches(lane_rows):
    nothing = np.empty(0, np.int32), np.empty(0, np.int32)
    bounds = np.zeros(len(lane_rows) + 1, np.int64)
    assert list(batches([nothing], bounds, 0, np.array(lane_rows), 4)) == []
    assert list(batches([], bounds, 0, np.array(lane_rows), 4)) == []


def test_a_worker_without_rows_takes_the_steps_of_the_others():
    taken = World(WORLDS["one lane"]).batches(4, 5, 40)
    assert [len(batch.user) for batch in taken] == [0, 0, 0, 0]
    assert [batch.rows for batch in taken] == [batch.first for batch in taken]
    assert sum(batch.rows for batch in taken) == 131


def test_epochs_and_seeds_have_different_but_repeatable_orders():
    world = World(WORLDS["many"])

    def order(epoch: int) -> list[tuple[int, ...]]:
        return [row for rows in world.whole_batches(1, 64, epoch) for row in rows]

    assert order(1) != order(2)
    assert order(1) == order(1)
    user, item = world.shards[0]
    orders = [
        arrange(user, item, world.bounds, 0, seed, 1, shard)[1] for seed, shard in ((3, 0), (4, 0), (3, 1))
    ]
    assert not any(
        np.array_equal(one, other) for one, other in zip(orders, orders[1:] + orders[:1], strict=True)
    )


def test_shards_are_visited_in_every_order():
    first = Counter(int(shard_order(4, 0, epoch, 0)[0]) for epoch in range(400))
    assert set(first) == {0, 1, 2, 3}
    assert min(first.values()) > 60
    assert [*shard_order(9, 0, 1, 0)] != [*shard_order(9, 0, 1, 1)]  # groups of lanes have their own


def test_rows_of_a_lane_are_shuffled_evenly():
    """Where the first row ends up is uniform over the places there are."""
    user, item = np.array([3, 3, 4, 4, 4], np.int32), np.arange(5)
    bounds = np.array([3, 5])
    place = Counter(
        int(np.flatnonzero(arrange(user, item, bounds, 7, 0, e, 0)[1] == 0)[0]) for e in range(1000)
    )
    assert set(place) == set(range(5))
    assert min(place.values()) > 150
