"""Synthetic datasets of any size, in which it is known what every user would like.

Users and items are points. Users like the items that score above their threshold, a fixed share of the
catalog. They come across items by popularity, which is skewed, and interact with those that they like. What
they would have liked but never came across is the truth that real data cannot tell: the false negatives of
a sampler.

Legend: U users of a shard, I items, C items that a user comes across, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from adar_ray.data.dataset import Dataset
from adar_ray.data.drivers import driver_for
from adar_ray.data.lanes import Homes, deal, lane_count
from adar_ray.data.manifest import KIND, TRUTH, SyntheticSettings, SyntheticSource
from adar_ray.data.matrix import to_column, to_matrix
from adar_ray.data.sequences import Windows
from adar_ray.data.sorting import Counted, count_both, stable_order
from adar_ray.data.split import TRAIN, SplitProtocol, assign
from adar_ray.data.write import (
    ROWS_PER_SHARD,
    WrittenShard,
    shard_count,
    write_manifest,
    write_shard,
)
from adar_ray.errors import AdarError, counted
from adar_ray.limits import LARGEST_SEED, MOST_IDS, MOST_ROWS, check_number
from adar_ray.outputs import new_folder
from adar_ray.storage import Folder

DIM = 16
LIKED_SHARE = 0.1
POPULARITY_EXPONENT = 0.8
ACTIVITY_SIGMA = 0.8
CANDIDATES_PER_INTERACTION = 3 / LIKED_SHARE
SAMPLE = 4096  # items that a user's threshold is estimated from
START_OF_TIME = 1_600_000_000  # seconds
VALUES_PER_BLOCK = 1 << 22  # bounds the scores held at once


class Truth:
    """What the users of a synthetic dataset like, seen or not.

    Users like an item if the dot product of the two vectors is at least the user's threshold.
    """

    def __init__(self, user_UD: np.ndarray, threshold_U: np.ndarray, item_ID: np.ndarray) -> None:
        self.user_UD, self.threshold_U, self.item_ID = user_UD, threshold_U, item_ID

    @classmethod
    def open(cls, dataset: str | Path | Dataset) -> Truth:
        """Read the truth that is stored with a synthetic dataset.

        Raises:
            AdarError: the dataset is not synthetic.
        """
        folder = Dataset.open(dataset).folder.folder(TRUTH)
        if not folder.exists("users.parquet"):
            raise AdarError(
                f"{folder}: is missing; only datasets of `adar-ray data synthetic` have the truth"
            )
        users, items = folder.read_table("users.parquet"), folder.read_table("items.parquet")
        return cls(to_matrix(users["vector"]), users["threshold"].to_numpy(), to_matrix(items["vector"]))

    def likes(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Whether each user likes the item at the same position."""
        score = np.einsum("ed,ed->e", self.user_UD[user], self.item_ID[item])
        return score >= self.threshold_U[user]


def synthesize(
    users: int,
    items: int,
    interactions: int,
    seed: int,
    out: str | Path,
    *,
    replace: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    on_progress: Callable[[str, int], None] = lambda stage, rows: None,
) -> Dataset:
    """Write a synthetic dataset, its shards in parallel, and its truth in `OUT/truth/`.

    The split is by ratio. Every user has at least one interaction; an item may have none. The files depend
    on nothing but `users`, `items`, `interactions`, `seed` and `rows_per_shard`.

    Args:
        users, items, interactions: the size of the dataset.
        seed: of all random numbers.
        out: address of the dataset; must be empty or absent unless `replace`.
        replace: replace a dataset at `out`.
        rows_per_shard: about this many interactions go into a shard; more if that makes over 4,096 shards.
        on_progress: called with the stage of the work and the rows done so far.

    Raises:
        AdarError: there are too few or too many interactions for these users and items.
    """
    check_number("--users", users, 1, MOST_IDS)
    check_number("--items", items, 2, MOST_IDS)
    check_number("--interactions", interactions, 1, MOST_ROWS)
    check_number("--seed", seed, 0, LARGEST_SEED)
    if interactions < users:
        raise AdarError(f"--interactions {interactions:,} is fewer than one for each of {users:,} users")
    most = items // 2
    if interactions > users * most:
        raise AdarError(
            f"--interactions {interactions:,} is too many: each of {counted(users, 'user')} can have at most "
            f"half of {items:,} items ({users * most:,}); lower it, or raise --users or --items"
        )
    split, windows = SplitProtocol(protocol="ratio", seed=seed), Windows()
    activity_U = _make_activity(users, interactions, most, seed)
    lanes = lane_count(interactions)
    lane_U = deal(activity_U, lanes)
    activity_U = activity_U[stable_order(lane_U)]
    world = _World(*_make_items(items, seed), activity_U)
    homes = Homes.of(lane_U, lanes, shard_count(interactions, rows_per_shard))
    with new_folder(out, replace=replace, kind=KIND) as folder, driver_for(folder) as driver:
        arguments = driver.share(world), homes, folder, split, windows, seed
        shards: list[WrittenShard] = []
        truths: list[_UserTruth] = []
        item_counts = np.zeros(items, np.int64)
        for result in driver.run(_make_shard, [(shard, *arguments) for shard in range(homes.shards)]):
            written, counts, truth = result.found
            shards.append(written)
            counts.add_to(item_counts)
            truths.append(truth)
            on_progress("making", int(item_counts.sum()))
        _write_truth(folder, truths, world.item_ID)
        write_manifest(
            folder,
            name=f"synthetic-{users}x{items}",
            source=SyntheticSource(
                synthetic=SyntheticSettings(users=users, items=items, interactions=interactions, seed=seed)
            ),
            split=split,
            windows=windows,
            notes=[],
            homes=homes,
            shards=shards,
            user_keys=pa.array(np.arange(users)).cast(pa.string()),
            item_keys=pa.array(np.arange(items)).cast(pa.string()),
            user_counts=activity_U,
            item_counts=item_counts,
        )
    return Dataset.open(out)


def _make_items(items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make the items' vectors, and the cumulative probability of coming across each item."""
    random = np.random.default_rng([seed, 0])
    weight = (random.permutation(items) + 1.0) ** -POPULARITY_EXPONENT
    return random.standard_normal((items, DIM), dtype=np.float32), np.cumsum(weight / weight.sum())


def _make_activity(users: int, interactions: int, most: int, seed: int) -> np.ndarray:
    """Draw the number of interactions of each user: log-normal, from 1 to `most`, with a fixed total."""
    random = np.random.default_rng([seed, 1])
    weight = random.lognormal(sigma=ACTIVITY_SIGMA, size=users)
    counts = np.clip((weight / weight.sum() * interactions).astype(np.int64), 1, most)
    while missing := interactions - int(counts.sum()):
        # Rounding and clipping leave a difference; spread it, one each, over users who have room.
        room = np.flatnonzero(counts < most) if missing > 0 else np.flatnonzero(counts > 1)
        chosen = random.permutation(room)[: abs(missing)]
        counts[chosen] += np.sign(missing)
    return counts


@dataclass(frozen=True)
class _World:
    """Items, the cumulative probability of coming across each, and how many interactions each user has."""

    item_ID: np.ndarray
    popularity_I: np.ndarray
    activity_U: np.ndarray


@dataclass(frozen=True)
class _UserTruth:
    """The truth about the users of a shard."""

    users: np.ndarray
    user_UD: np.ndarray
    threshold_U: np.ndarray


def _make_shard(
    shard: int,
    world: _World,
    homes: Homes,
    folder: Folder,
    split: SplitProtocol,
    windows: Windows,
    seed: int,
) -> Generator[pa.Table, None, tuple[WrittenShard, Counted, _UserTruth]]:
    """Write one shard; return what was written, its items and the truth about its users."""
    yield from ()
    item_ID, popularity_I, activity_U = world.item_ID, world.popularity_I, world.activity_U
    everyone = np.arange(len(activity_U))
    user_U = everyone[homes.shard_of(everyone) == shard]
    random = np.random.default_rng([seed, 2, shard])
    user_UD = random.standard_normal((len(user_U), DIM), dtype=np.float32)
    sample = random.choice(len(item_ID), min(SAMPLE, len(item_ID)), replace=False)
    threshold_U = np.empty(len(user_U), np.float32)
    rows = [(np.empty(0, np.int64), np.empty(0, np.int64))]  # a shard of few users may have none
    # Group users of similar activity, so that little of the rectangle of candidates is wasted.
    by_activity = np.argsort(activity_U[user_U], kind="stable")
    start = 0
    while start < len(by_activity):
        width = int(activity_U[user_U[by_activity[start]]] * CANDIDATES_PER_INTERACTION) + 64
        size = max(1, VALUES_PER_BLOCK // max(len(sample), min(2 * width, len(item_ID)) * DIM))
        chosen = by_activity[start : start + size]
        score = user_UD[chosen] @ item_ID[sample].T
        threshold_U[chosen] = np.quantile(score, 1 - LIKED_SHARE, axis=1)
        count = activity_U[user_U[chosen]]
        item, owner = _choose_items(
            random, user_UD[chosen], threshold_U[chosen], count, item_ID, popularity_I
        )
        rows.append((user_U[chosen][owner], item))
        start += size
    user, item = (np.concatenate(part) for part in zip(*rows, strict=True))
    timestamp = (START_OF_TIME + random.integers(0, 1 << 26, len(user))) * 10**9
    in_time = np.argsort(timestamp, kind="stable")
    order = in_time[stable_order(user[in_time])]
    given = np.full(len(user), TRAIN, np.int8)
    user_E, item_E, timestamp_E = user[order], item[order], timestamp[order]
    splits = assign(split, user_E, item_E, timestamp_E, given, None)
    written = write_shard(folder, shard, homes, splits, windows, user_E, item_E, timestamp_E)
    _, items = count_both(user_E, item_E)
    return written, items, _UserTruth(user_U, user_UD, threshold_U)


def _choose_items(
    random: np.random.Generator,
    user_UD: np.ndarray,
    threshold_U: np.ndarray,
    count_U: np.ndarray,
    item_ID: np.ndarray,
    popularity_I: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose distinct items for each user; return the items and the position of each item's user.

    Users come across items by popularity and take those that they like, in that order. If they do not come
    across enough of them, they take those of the others with the best scores.
    """
    users, items = len(user_UD), len(item_ID)
    width = int(count_U.max() * CANDIDATES_PER_INTERACTION) + 64
    if width * 2 > items:
        # Nearly the whole catalog: users come across all items, in a random order that favors popular ones.
        weight = np.diff(popularity_I, prepend=0.0)
        arrival = random.exponential(size=(users, items)) / weight
        item_UC = np.argsort(arrival, axis=1)
    else:
        item_UC = np.searchsorted(popularity_I, random.random((users, width))).clip(max=items - 1)
    score_UC = np.einsum("ud,ucd->uc", user_UD, item_ID[item_UC])
    is_new_UC = ~_repeated(item_UC, items)
    liked_UC = (score_UC >= threshold_U[:, None]) & is_new_UC
    taken_UC = liked_UC & (np.cumsum(liked_UC, axis=1) <= count_U[:, None])
    missing_U = count_U - taken_UC.sum(1)
    for user in np.flatnonzero(missing_U):
        others = np.flatnonzero(is_new_UC[user] & ~liked_UC[user])
        best = np.argsort(-score_UC[user, others], kind="stable")[: missing_U[user]]
        taken_UC[user, others[best]] = True
    return item_UC[taken_UC], np.nonzero(taken_UC)[0]


def _repeated(item_UC: np.ndarray, items: int) -> np.ndarray:
    """Whether a row has the same item further to the left."""
    # numpy sorts numbers of two bytes in linear time.
    item_UC = item_UC.astype(np.min_scalar_type(items))
    order = np.argsort(item_UC, axis=1, kind="stable")
    in_order = np.take_along_axis(item_UC, order, 1)
    again = np.zeros_like(item_UC, dtype=bool)
    again[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    result = np.empty_like(again)
    np.put_along_axis(result, order, again, 1)
    return result


def _write_truth(folder: Folder, truths: list[_UserTruth], item_ID: np.ndarray) -> None:
    order = np.argsort(np.concatenate([truth.users for truth in truths]))
    user_UD = np.concatenate([truth.user_UD for truth in truths])[order]
    threshold_U = np.concatenate([truth.threshold_U for truth in truths])[order]
    truth = folder.folder(TRUTH)
    truth.write_table("users.parquet", pa.table({"vector": to_column(user_UD), "threshold": threshold_U}))
    truth.write_table("items.parquet", pa.table({"vector": to_column(item_ID)}))
