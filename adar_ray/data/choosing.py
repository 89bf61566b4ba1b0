"""The second step of `prepare`: sort each user's interactions, and choose among those that repeat.

Legend: E rows of a part, which holds all rows of its users; K different ids of a block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import astuple, dataclass, replace

import numpy as np
import pyarrow as pa

from adar_ray.data.driver import Block, Driver, OnRows, drained
from adar_ray.data.manifest import SPLITS, Repeat
from adar_ray.data.reading import Rows
from adar_ray.data.sorting import Counted, count_both, runs, stable_order
from adar_ray.data.split import TRAIN, hash_pairs

_ROWS_PER_PART = 1 << 19
_MOST_PARTS = 256  # more would be cut into too small pieces
_COARSER_UNITS = (10**9, 10**6, 10**3)  # nanoseconds


@dataclass(frozen=True)
class Choice:
    """Which interactions are kept, and what orders them."""

    has_time: bool
    repeat: Repeat
    min_rating: float | None


_PRECEDENCE = np.array([0, 2, 1])  # of SPLITS: training keeps a pair before test, and test before validation


@dataclass(frozen=True)
class Dropped:
    """The numbers of rows that were dropped; see `manifest.RowCounts`."""

    repeated: int = 0
    held_out_in_training: int = 0
    valid_in_test: int = 0
    low_rating: int = 0


@dataclass(frozen=True)
class Chosen:
    """The interactions that are left.

    Attributes:
        parts: blocks with all interactions of some users, sorted by user and time: `user`, `item`,
            `timestamp` and, if the source has a split, `given`; `weight` if the source has one, or repeated
            interactions are to be added up.
        dropped: how many are gone.
        user_counts, item_counts: the interactions of each user and item.
    """

    parts: list[Block]
    dropped: Dropped
    user_counts: np.ndarray
    item_counts: np.ndarray


def choose(driver: Driver, rows: Rows, choice: Choice, on_rows: OnRows) -> Chosen:
    """Cut the rows by user into parts, sort them, and choose; the blocks of the rows are gone then."""
    parts = min(-(-rows.count // _ROWS_PER_PART), _MOST_PARTS)
    inputs = zip(drained(rows.blocks), rows.users.positions, rows.items.positions, strict=True)
    together = driver.shuffle(_to_parts, ((*block, parts) for block in inputs), parts)
    chosen: list[Block] = []
    all_dropped: list[Dropped] = []
    user_counts, item_counts = np.zeros(len(rows.users), np.int64), np.zeros(len(rows.items), np.int64)
    for result in driver.run(_choose, ((block, choice) for block in drained(together)), on_rows):
        dropped, users, items = result.found
        chosen += result.blocks
        all_dropped.append(dropped)
        users.add_to(user_counts)
        items.add_to(item_counts)
    total = Dropped(*np.sum([astuple(dropped) for dropped in all_dropped], axis=0).tolist())
    return Chosen(chosen, total, user_counts, item_counts)


def _to_parts(
    block: pa.Table, user_K: np.ndarray, item_K: np.ndarray, parts: int
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Give a block preliminary ids, and each row the part of its user."""
    codes = {name: block[name].combine_chunks().indices.to_numpy() for name in ("user", "item")}
    columns = {"user": user_K[codes["user"]], "item": item_K[codes["item"]]}
    rest = {name: block[name] for name in block.column_names if name not in columns}
    part_K = (hash_pairs(user_K, 0, 0) % np.uint64(parts)).astype(np.int32)
    yield part_K[codes["user"]], pa.table(columns | rest)


def _choose(block: pa.Table, choice: Choice) -> Generator[pa.Table, None, tuple[Dropped, Counted, Counted]]:
    chosen, dropped = sort_and_choose(choice, block)
    if chosen.num_rows:
        yield chosen
    return dropped, *count_both(chosen["user"].to_numpy(), chosen["item"].to_numpy())


def sort_and_choose(choice: Choice, block: pa.Table) -> tuple[pa.Table, Dropped]:
    """Sort by user and time, and keep one interaction of each pair unless all are to be kept.

    The first is the first in time, or in the source if it has no times; ties are broken by the order in the
    source. If they are to be added up, the last one is kept, with the sum of all weights; without a weight,
    each weighs 1. Where a pair is in the source's training and its test, training keeps it; where
    it is in its validation and its test, test does. The filter by rating comes after that: a pair counts by
    the rating of its interaction that is kept.

    Args:
        block: rows in the order of the source.
    """
    order_E = _time_order(block["timestamp"].to_numpy()) if choice.has_time else np.arange(block.num_rows)
    order_E = order_E[stable_order(block["user"].to_numpy()[order_E])]
    names = [name for name in block.column_names if name != "rating"]
    column = {name: block[name].to_numpy()[order_E] for name in names}
    if choice.repeat == "sum":
        column.setdefault("weight", np.ones(block.num_rows, np.float32))
    is_kept_E, dropped = np.ones(block.num_rows, dtype=bool), Dropped()
    if choice.repeat != "keep":
        is_kept_E, dropped = _choose_of_pairs(choice.repeat, column)
    if choice.min_rating is not None:
        is_enough_E = block["rating"].to_numpy()[order_E] >= choice.min_rating
        low = int((is_kept_E & ~is_enough_E).sum())
        dropped = replace(dropped, low_rating=low)
        is_kept_E &= is_enough_E
    if not is_kept_E.all():
        column = {name: values[is_kept_E] for name, values in column.items()}
    return pa.table(column), dropped


def _time_order(time_E: np.ndarray) -> np.ndarray:
    unit = next((unit for unit in _COARSER_UNITS if not (time_E % unit).any()), 1)
    return stable_order(time_E // unit)  # smaller numbers are sorted faster


def _choose_of_pairs(repeat: Repeat, column: dict[str, np.ndarray]) -> tuple[np.ndarray, Dropped]:
    """Which rows to keep, given rows that are sorted by user and time; adds up their weights if asked to."""
    user_E, item_E, given_E = column["user"], column["item"], column.get("given")
    start_U, count_U = runs(user_E)
    nth_E = np.repeat(np.arange(len(start_U)), count_U)  # smaller numbers than the ids
    pair_E = nth_E << int(item_E.max(initial=0)).bit_length() | item_E
    split_E = pair_E if given_E is None else pair_E * len(SPLITS) + _PRECEDENCE[given_E]
    by_split_E = stable_order(split_E)
    split_start, split_count = runs(split_E[by_split_E])
    # The rows of a pair in its first split; the others are in that one already.
    pair = pair_E[by_split_E[split_start]]
    is_first_split = np.concatenate([[True], pair[1:] != pair[:-1]])[: len(pair)]
    chosen = split_start if repeat == "first" else split_start + split_count - 1
    if repeat == "sum":
        total = np.add.reduceat(column["weight"][by_split_E], split_start, dtype=np.float64)
        column["weight"][by_split_E[chosen]] = total
    is_kept_E = np.zeros(len(user_E), dtype=bool)
    is_kept_E[by_split_E[chosen[is_first_split]]] = True
    dropped = Dropped(repeated=len(user_E) - len(split_start))
    if given_E is not None:
        first_split = given_E[by_split_E[split_start[is_first_split]]]
        split_of_others = first_split[(np.cumsum(is_first_split) - 1)[~is_first_split]]
        in_training = int((split_of_others == TRAIN).sum())
        dropped = replace(
            dropped, held_out_in_training=in_training, valid_in_test=len(split_of_others) - in_training
        )
    return is_kept_E, dropped
