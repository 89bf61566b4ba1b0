"""Synthetic datasets: their promised properties, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.data.synthetic import LIKED_SHARE, Truth, synthesize
from adar_ray.errors import AdarError

SPLITS = ("train", "valid", "test")
USERS, ITEMS, INTERACTIONS = 250, 3000, 7500


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "data"
    synthesize(USERS, ITEMS, INTERACTIONS, 3, out, rows_per_shard=1600)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pairs(folder: Path, *splits: str) -> np.ndarray:
    tables = [pq.read_table(p) for split in splits or SPLITS for p in sorted((folder / split).iterdir())]
    return np.concatenate([np.stack([t["user"].to_numpy(), t["item"].to_numpy()], 1) for t in tables])


def test_exact_counts(world: Path) -> None:
    counts = Dataset.open(world).manifest.counts
    found = pairs(world)
    assert len(found) == len(np.unique(found, axis=0)) == INTERACTIONS
    assert (counts.users, counts.items, counts.interactions) == (USERS, ITEMS, INTERACTIONS)
    assert {split: len(pairs(world, split)) for split in SPLITS} == counts.model_dump(include=set(SPLITS))
    for column, kind, number in ((0, "users", USERS), (1, "items", ITEMS)):
        table = pq.read_table(world / f"{kind}.parquet")
        assert table["key"].to_pylist() == [str(n) for n in range(number)]
        assert np.array_equal(table["interactions"], np.bincount(found[:, column], minlength=number))
    assert np.bincount(found[:, 0], minlength=USERS).min() >= 1


def test_split_by_ratio(world: Path) -> None:
    total = np.bincount(pairs(world)[:, 0], minlength=USERS)
    tested = np.minimum(np.floor(total * 0.2 + 0.5), total - 1)
    left = total - tested
    assert np.array_equal(np.bincount(pairs(world, "test")[:, 0], minlength=USERS), tested)
    validated = np.minimum(np.floor(left * 0.1 + 0.5), left - 1)
    assert np.array_equal(np.bincount(pairs(world, "valid")[:, 0], minlength=USERS), validated)


def test_shards_share_no_user_and_are_in_order(world: Path) -> None:
    owner: dict[int, str] = {}
    paths = [path for split in SPLITS for path in sorted((world / split).iterdir())]
    assert len({path.name for path in paths}) == 5
    for path in paths:
        table = pq.read_table(path)
        rows = list(zip(table["user"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
        assert rows == sorted(rows)
        assert all(owner.setdefault(user, path.name) == path.name for user, _ in rows)


def test_sequences_hold_training_in_order_of_time(world: Path) -> None:
    assert json.loads((world / "dataset.json").read_text())["sequences"]["length"] == 50
    for path in sorted(world.glob("sequences/*")):
        train, rows = (pq.read_table(folder / path.name) for folder in (world / "train", path.parent))
        own: dict[int, list[int]] = {}
        for user, item in zip(train["user"].to_pylist(), train["item"].to_pylist(), strict=True):
            own.setdefault(user, []).append(item)
        learned: dict[int, list[int]] = {user: items[:1] for user, items in own.items() if len(items) > 1}
        for user, items in zip(rows["user"].to_pylist(), rows["items"].to_pylist(), strict=True):
            learned[user] += [item for item in items if item >= 0][1:]
        assert learned == {user: items for user, items in own.items() if len(items) > 1}


def test_depends_only_on_its_arguments(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.random.seed(99)
    synthesize(USERS, ITEMS, INTERACTIONS, 3, "again", rows_per_shard=1600)
    assert contents(tmp_path / "again") == contents(world)
    synthesize(USERS, ITEMS, INTERACTIONS, 4, "other", rows_per_shard=1600)
    same = {tuple(pair) for pair in pairs(world)} & {tuple(pair) for pair in pairs(tmp_path / "other")}
    assert len(same) < INTERACTIONS / 10


def test_popularity_is_skewed(world: Path) -> None:
    counts = np.sort(np.bincount(pairs(world)[:, 1], minlength=ITEMS))[::-1]
    # A tenth of the items; were all equally likely, Poisson noise alone would give them about a fifth.
    assert counts[: ITEMS // 10].sum() > 0.4 * INTERACTIONS


def test_activity_is_skewed(world: Path) -> None:
    counts = np.sort(np.bincount(pairs(world)[:, 0], minlength=USERS))[::-1]
    # Of a log-normal with sigma 0.8 the upper half owns 79 % (its Lorenz curve: 1 - Phi(-0.8)).
    assert counts[: USERS // 2].sum() / INTERACTIONS == pytest.approx(0.788, abs=0.05)


def test_truth_agrees_with_brute_force(world: Path) -> None:
    users, items = (pq.read_table(world / "truth" / f"{kind}.parquet") for kind in ("users", "items"))
    user_UD, item_ID = (np.array(table["vector"].to_pylist()) for table in (users, items))
    liked_UI = user_UD @ item_ID.T >= users["threshold"].to_numpy()[:, None]
    assert liked_UI.shape == (USERS, ITEMS)
    assert liked_UI.mean() == pytest.approx(LIKED_SHARE, abs=0.005)

    random = np.random.default_rng(0)
    user, item = random.integers(0, USERS, 20_000), random.integers(0, ITEMS, 20_000)
    disagree = Truth.open(world).likes(user, item) != liked_UI[user, item]
    # Sums of 16 products in single and in double precision may differ at the threshold itself.
    margin = (user_UD @ item_ID.T - users["threshold"].to_numpy()[:, None])[user, item]
    assert np.abs(margin[disagree]).max(initial=0) < 1e-5

    found = pairs(world)
    assert liked_UI[found[:, 0], found[:, 1]].mean() > 0.9
    # What is true of the parts that were learned from is true of those that are held out.
    held_out = pairs(world, "test")
    assert liked_UI[held_out[:, 0], held_out[:, 1]].mean() > 0.9


def test_users_who_like_too_few_items_take_the_best_of_the_others(tmp_path: Path) -> None:
    synthesize(20, 60, 20 * 30, 0, tmp_path / "data")
    found = pairs(tmp_path / "data")
    taken = np.zeros((20, 60), dtype=bool)
    taken[found[:, 0], found[:, 1]] = True
    assert (taken.sum(1) == 30).all()  # of which 6 are liked
    users, items = (pq.read_table(tmp_path / "data/truth" / f"{kind}.parquet") for kind in ("users", "items"))
    score = np.array(users["vector"].to_pylist()) @ np.array(items["vector"].to_pylist()).T
    worst_taken = np.where(taken, score, np.inf).min(1)
    best_left = np.where(taken, -np.inf, score).max(1)
    assert (worst_taken > best_left).all()


def test_a_shard_may_be_without_users(tmp_path: Path) -> None:
    dataset = synthesize(6, 40, 60, 1, tmp_path / "data", rows_per_shard=10)
    users = [dataset.read_shard(shard)[0] for shard in dataset.shards("train")]
    assert len(users) < 6  # files that would be empty are not written
    assert sorted(set(np.concatenate(users).tolist())) == list(range(6))


@pytest.mark.parametrize(
    ("users", "items", "interactions", "words"),
    [
        (10, 100, 9, "fewer than one for each of 10 users"),
        (10, 100, 501, "half of 100 items"),
        (1, 1, 1, "--items 1: give 2 to 2,147,483,647"),
    ],
)
def test_refuses_impossible_sizes(
    tmp_path: Path, users: int, items: int, interactions: int, words: str
) -> None:
    with pytest.raises(AdarError, match=words):
        synthesize(users, items, interactions, 0, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_refuses_to_overwrite(tmp_path: Path) -> None:
    synthesize(5, 20, 25, 0, tmp_path / "data")
    before = contents(tmp_path / "data")
    with pytest.raises(AdarError, match="--replace"):
        synthesize(6, 20, 25, 0, tmp_path / "data")
    assert contents(tmp_path / "data") == before
    assert synthesize(6, 20, 25, 0, tmp_path / "data", replace=True).n_users == 6


def test_prepared_datasets_have_no_truth(hand_made: Path, tmp_path: Path) -> None:
    prepare(hand_made, tmp_path / "data")
    with pytest.raises(AdarError, match=f"{tmp_path}/data/truth: is missing"):
        Truth.open(tmp_path / "data")
