"""The last step of `prepare`: bring together the users of each shard, split their interactions, and write.

Legend: U users, E rows of a block.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from adar_ray.data.driver import Block, Driver, OnRows, drained
from adar_ray.data.lanes import Homes, deal, lane_count
from adar_ray.data.manifest import SPLITS, count_rows
from adar_ray.data.notes import SplitFacts
from adar_ray.data.sequences import Windows
from adar_ray.data.sorting import runs, stable_order
from adar_ray.data.split import TEST, TRAIN, SplitProtocol, assign, temporal_cuts
from adar_ray.data.write import WrittenShard, shard_count, write_shard
from adar_ray.errors import AdarError
from adar_ray.storage import Folder


def cut_in_time(
    driver: Driver,
    parts: list[Block],
    user_counts: np.ndarray,
    item_counts: np.ndarray,
    protocol: SplitProtocol,
) -> tuple[int, int]:
    """The first moments of validation and of test for a temporal split of the kept interactions."""
    kept = driver.share(user_counts > 0), driver.share(item_counts > 0)

    def histogram(edges: list[int]) -> np.ndarray:
        found = driver.run(_count_from, [(part, *kept, edges) for part in parts])
        return np.sum([result.found for result in found], axis=0)

    limits = [result.found for result in driver.run(_first_and_last, [(part,) for part in parts])]
    low, high = min(first for first, _ in limits), max(last for _, last in limits)
    return temporal_cuts(histogram, int(user_counts.sum()), low, high, protocol)


def _first_and_last(part: pa.Table) -> Generator[pa.Table, None, tuple[int, int]]:
    yield from ()
    time_E = part["timestamp"].to_numpy()
    return int(time_E.min()), int(time_E.max())


def _count_from(
    part: pa.Table, keeps_user: np.ndarray, keeps_item: np.ndarray, edges: list[int]
) -> Generator[pa.Table, None, np.ndarray]:
    yield from ()
    kept = keeps_user[part["user"].to_numpy()] & keeps_item[part["item"].to_numpy()]
    time_E = np.sort(part["timestamp"].to_numpy()[kept])
    return len(time_E) - np.searchsorted(time_E, edges)


@dataclass(frozen=True)
class FinalIds:
    """The users and items that are left: users lane by lane, items in the order that they had.

    Attributes:
        users, items: preliminary ids, in the order of the final ones.
        new_users, new_items: the final id of each preliminary one; -1 if dropped.
        homes: where the users live.
    """

    users: np.ndarray
    items: np.ndarray
    new_users: np.ndarray
    new_items: np.ndarray
    homes: Homes

    @classmethod
    def of(cls, user_counts: np.ndarray, item_counts: np.ndarray, rows_per_shard: int) -> FinalIds:
        """Number those that have interactions."""
        rows = int(user_counts.sum())
        users, items = np.flatnonzero(user_counts), np.flatnonzero(item_counts)
        lane_U = deal(user_counts[users], lane_count(rows))
        users = users[stable_order(lane_U)]
        homes = Homes.of(lane_U, lane_count(rows), shard_count(rows, rows_per_shard))
        return cls(users, items, _new(users, len(user_counts)), _new(items, len(item_counts)), homes)


def _new(order: np.ndarray, count: int) -> np.ndarray:
    ids = np.full(count, -1, np.int32)
    ids[order] = np.arange(len(order), dtype=np.int32)
    return ids


@dataclass(frozen=True)
class ShardWriter:
    """Splits the interactions of a shard and writes them.

    Args:
        folder: the dataset.
        protocol: how to split.
        cuts: the first moments of validation and of test, for a temporal split.
        windows: which sequence rows to make.
        homes: where the users live.
    """

    folder: Folder
    protocol: SplitProtocol
    cuts: tuple[int, int] | None
    windows: Windows
    homes: Homes

    def write(self, shard: int, rows: pa.Table) -> _Found:
        """Write a shard of these rows, which have final ids and are sorted by user and time."""
        user_E, item_E, time_E = (rows[name].to_numpy() for name in ("user", "item", "timestamp"))
        given_E = rows["given"].to_numpy() if "given" in rows.column_names else np.zeros(len(user_E), np.int8)
        split_E = assign(self.protocol, user_E, item_E, time_E, given_E, self.cuts)
        weight_E = rows["weight"].to_numpy() if "weight" in rows.column_names else None
        written = write_shard(
            self.folder, shard, self.homes, split_E, self.windows, user_E, item_E, time_E, weight_E
        )
        train_users, test_users = (_distinct(user_E[split_E == split]) for split in (TRAIN, TEST))
        return _Found(
            written,
            test_users=len(test_users),
            cold_users=int((~np.isin(test_users, train_users)).sum()),
            train_items=np.flatnonzero(np.bincount(item_E[split_E == TRAIN])),
            test_items=np.flatnonzero(np.bincount(item_E[split_E == TEST])),
        )


def _distinct(user_E: np.ndarray) -> np.ndarray:
    """The users, each once where the rows are sorted by user."""
    return user_E[runs(user_E)[0]]


@dataclass(frozen=True)
class _Found:
    """What a shard has come to: its users in test, those of them who are not in training, and its items."""

    shard: WrittenShard
    test_users: int
    cold_users: int
    train_items: np.ndarray
    test_items: np.ndarray


def write_shards(
    driver: Driver, parts: list[Block], ids: FinalIds, writer: ShardWriter, on_rows: OnRows
) -> tuple[list[WrittenShard], SplitFacts]:
    """Write all shards; the parts are gone then.

    Returns:
        What was written, and what the split has come to.

    Raises:
        AdarError: nothing is left for training.
    """
    shard_U = ids.homes.shard_of(np.arange(len(ids.users)))
    new = [driver.share(array) for array in (ids.new_users, ids.new_items, shard_U)]
    blocks = driver.shuffle(_to_shards, ((part, *new) for part in drained(parts)), ids.homes.shards)
    shards: list[WrittenShard] = []
    tested = cold_users = written = 0
    in_training, in_test = np.zeros((2, len(ids.items)), dtype=bool)
    for result in driver.run(_write, ((block, new[2], writer) for block in drained(blocks))):
        for found in result.found:
            shards.append(found.shard)
            tested, cold_users = tested + found.test_users, cold_users + found.cold_users
            in_training[found.train_items] = True
            in_test[found.test_items] = True
            written += count_rows(found.shard.files, *SPLITS)
        on_rows(written)
    files = [file for shard in shards for file in shard.files]
    train, valid, test = (count_rows(files, split) for split in SPLITS)
    if not train:
        raise AdarError("the split leaves nothing for training; choose another --split or smaller fractions")
    cold_items = int((in_test & ~in_training).sum())
    return shards, SplitFacts(train, valid, test, tested, cold_users, int(in_test.sum()), cold_items)


def _to_shards(
    part: pa.Table, new_users: np.ndarray, new_items: np.ndarray, shard_U: np.ndarray
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Give the rows that are kept final ids, and the shard of their user."""
    user_E, item_E = new_users[part["user"].to_numpy()], new_items[part["item"].to_numpy()]
    kept_E = (user_E >= 0) & (item_E >= 0)
    rest = {name: part[name] for name in part.column_names if name not in ("user", "item")}
    table = pa.table({"user": user_E, "item": item_E} | rest)
    if not kept_E.all():
        user_E, table = user_E[kept_E], table.filter(pa.array(kept_E))
    yield shard_U[user_E], table


def _write(
    block: pa.Table, shard_U: np.ndarray, writer: ShardWriter
) -> Generator[pa.Table, None, list[_Found]]:
    yield from ()
    user_E = block["user"].to_numpy()
    order_E = stable_order(user_E)
    shards = np.flatnonzero(np.bincount(shard_U[_distinct(user_E)])).tolist()
    if len(shards) == 1:
        return [writer.write(shards[0], block.take(order_E))]
    shard_E = shard_U[user_E[order_E]]
    return [writer.write(shard, block.take(order_E[shard_E == shard])) for shard in shards]
