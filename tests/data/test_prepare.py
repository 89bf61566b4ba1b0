"""From sources to datasets, end to end: against hand-made cases and a plain implementation of the rules."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from adar_ray.data.chunks import WorkerRows
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from tests import sealed

REAL = Path(__file__).parents[3] / "shared" / "data"
SPLITS = ("train", "valid", "test")


# Reading a dataset back, and what should be in it, without the code under test.


def keys_of(folder: Path, kind: str) -> list[str]:
    table = pq.read_table(folder / f"{kind}s.parquet").to_pydict()
    assert table[kind] == list(range(len(table[kind])))
    return table["key"]


def shard_rows(folder: Path, split: str) -> dict[str, list[tuple[str, str, float]]]:
    """(user key, item key, time in seconds) of every shard of a split, in the order they lie there."""
    users, items = keys_of(folder, "user"), keys_of(folder, "item")
    result = {}
    for path in sorted((folder / split).glob("*")):
        columns = pq.read_table(path).to_pydict()
        assert list(columns) in (["user", "item", "timestamp"], ["user", "item", "timestamp", "weight"])
        rows = zip(*list(columns.values())[:3], strict=True)
        result[path.name] = [(users[user], items[item], time / 1e9) for user, item, time in rows]
    return result


def rows_of(folder: Path, split: str) -> list[tuple[str, str, float]]:
    return [row for rows in shard_rows(folder, split).values() for row in rows]


def all_rows(folder: Path) -> list[tuple[str, str, float]]:
    return [row for split in SPLITS for row in rows_of(folder, split)]


def pairs_of(folder: Path, split: str) -> set[tuple[str, str]]:
    return {(user, item) for user, item, _ in rows_of(folder, split)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def by_bytes(key: str) -> tuple[int, bytes]:
    return len(key.encode()), key.encode()


Row = tuple[str, str, int, float]


def kept_by_the_rules(rows: list[Row], min_rating: float | None = None, core: int = 0) -> list[Row]:
    """First interactions of each pair, filtered; in order of time, then of the source."""
    first: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda row: row[2]):
        first.setdefault(row[:2], row)
    kept = [row for row in first.values() if min_rating is None or row[3] >= min_rating]
    while True:
        users, items = Counter(row[0] for row in kept), Counter(row[1] for row in kept)
        left = [row for row in kept if users[row[0]] >= core and items[row[1]] >= core]
        if len(left) == len(kept):
            return kept
        kept = left


def of_each_user(rows: list[Row]) -> dict[str, list[Row]]:
    result: dict[str, list[Row]] = {}
    for row in rows:
        result.setdefault(row[0], []).append(row)
    return result


def random_rows(seed: int, rows: int, users: int, items: int, times: int) -> list[Row]:
    """Some users and items far more active than others, pairs that repeat, moments that tie."""
    chosen = np.random.default_rng(seed)
    user = (chosen.random(rows) ** 2 * users).astype(int)
    item = (chosen.random(rows) ** 3 * items).astype(int)
    time, rating = chosen.integers(0, times, rows), chosen.integers(1, 6, rows)
    columns = (user.tolist(), item.tolist(), time.tolist(), rating.tolist())
    return [(f"u{u}", f"{i}é" if i % 2 else f"{i}", t, float(r)) for u, i, t, r in zip(*columns, strict=True)]


def write_csv(path: Path, rows: list[Row]) -> Path:
    lines = [f"{user},{item},{time},{rating}\n" for user, item, time, rating in rows]
    path.write_text("user,item,timestamp,rating\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return random_rows(seed=5, rows=1500, users=60, items=90, times=400)


@pytest.fixture(scope="module")
def source(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("random") / "random.csv", rows)


# What comes out.


def test_hand_made_source(hand_made: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    dataset = prepare(hand_made, out)
    # By interactions: 10, 9, ann, Ω, 日本. The two most active are in different halves of the lanes.
    assert keys_of(out, "user") == ["10", "Ω", "日本", "9", "ann"]
    lanes = dataset.manifest.lanes
    assert [lane for lane in range(64) if lanes.users[lane]] == [0, 16, 24, 32, 48]
    assert [count for count in lanes.users if count] == [1, 1, 1, 1, 1]
    assert [count for count in lanes.train if count] == [2, 2, 1, 1, 1]
    assert [count for count in lanes.sequences if count] == [1, 1]
    assert keys_of(out, "item") == ["a", "b", "c", "d", "10", "Ä"]
    assert rows_of(out, "train") == [
        ("10", "b", 7),
        ("10", "c", 7),
        ("Ω", "10", 50),
        ("Ω", "a", 100),
        ("日本", "c", 1),
        ("9", "a", 1),
        ("ann", "a", 5),
    ]
    assert rows_of(out, "valid") == [("10", "a", 8), ("9", "b", 2), ("ann", "b", 20)]
    assert rows_of(out, "test") == [("10", "d", 9), ("9", "Ä", 3), ("ann", "c", 30)]
    assert pq.read_table(out / "users.parquet")["interactions"].to_pylist() == [4, 2, 1, 3, 3]
    assert pq.read_table(out / "items.parquet")["interactions"].to_pylist() == [4, 3, 3, 1, 1, 1]
    manifest = sealed.read(out / "dataset.json")
    assert manifest["counts"] == {
        "users": 5,
        "items": 6,
        "interactions": 13,
        "train": 7,
        "valid": 3,
        "test": 3,
    }
    repeated, few, cold = manifest["notes"]
    assert repeated.startswith(
        "1 interaction repeats a pair of user and item; the first of each pair was kept"
    )
    assert few.startswith("2 users have fewer than 3 interactions (the first is 'Ω')")
    assert "stay in training" in few
    assert cold.startswith("2 of 3 items in test have no interaction in training")
    assert manifest["name"] == dataset.name == "hand-made"
    assert manifest == dataset.manifest.model_dump()


def test_filter_uses_the_first_rating_of_a_pair(hand_made: Path, tmp_path: Path) -> None:
    prepare(hand_made, tmp_path / "data", min_rating=4)
    # ann rated a with 1 before rating it with 5.
    expected = [("9", "a", 1), ("9", "b", 2), ("10", "b", 7), ("10", "c", 7), ("10", "a", 8), ("10", "d", 9)]
    expected += [("Ω", "10", 50), ("Ω", "a", 100), ("ann", "c", 30), ("日本", "c", 1)]
    assert sorted(all_rows(tmp_path / "data")) == sorted(expected)


def test_types_of_the_files(hand_made: Path, tmp_path: Path) -> None:
    prepare(hand_made, tmp_path / "data")
    shard = pq.read_schema(tmp_path / "data" / "train" / "00000.parquet")
    assert [(f.name, str(f.type)) for f in shard] == [
        ("user", "int32"),
        ("item", "int32"),
        ("timestamp", "int64"),
    ]


@pytest.mark.parametrize(("min_rating", "core"), [(None, 0), (3.0, 0), (None, 4), (2.5, 5), (4.0, 4)])
def test_filters_match_a_plain_implementation(
    rows: list[Row], source: Path, tmp_path: Path, min_rating: float | None, core: int
) -> None:
    dataset = prepare(source, tmp_path / "data", min_rating=min_rating, core=core)
    kept = kept_by_the_rules(rows, min_rating, core)
    assert 100 < len(kept) < len(rows)
    assert sorted(all_rows(tmp_path / "data")) == sorted(row[:3] for row in kept)
    for kind, column in (("user", 0), ("item", 1)):
        counts = Counter(row[column] for row in kept)
        keys = keys_of(tmp_path / "data", kind)
        own = dataset.manifest.lanes.users if kind == "user" else [len(keys)]
        starts = [sum(own[:lane]) for lane in range(len(own))]
        for start, count in zip(starts, own, strict=True):  # users are sorted within their lane
            assert keys[start : start + count] == sorted(keys[start : start + count], key=by_bytes)
        assert set(keys) == set(counts)
        table = pq.read_table(tmp_path / "data" / f"{kind}s.parquet")
        assert dict(zip(table["key"].to_pylist(), table["interactions"].to_pylist(), strict=True)) == counts
    assert dataset.manifest.counts.interactions == len(kept)


def test_core_that_takes_many_rounds(tmp_path: Path) -> None:
    # A chain: dropping one end leaves the next link too few, and so on; a 3 x 3 block stays.
    chain = [(f"u{n}", f"i{n + d}", 0, 5.0) for n in range(20) for d in (0, 1)]
    block = [(f"U{a}", f"I{b}", 0, 5.0) for a in range(3) for b in range(3)]
    source = write_csv(tmp_path / "chain.csv", chain + block)
    prepare(source, tmp_path / "data", core=2, split="ratio")
    assert sorted(all_rows(tmp_path / "data")) == sorted(row[:3] for row in block)


# Splits.


def test_leave_one_out(rows: list[Row], source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "data")
    expected: dict[str, list] = {split: [] for split in SPLITS}
    for own in of_each_user(kept_by_the_rules(rows)).values():
        held_out = 2 if len(own) >= 3 else 0
        expected["train"] += own[: len(own) - held_out]
        expected["valid"] += own[-2:-1] if held_out else []
        expected["test"] += own[-1:] if held_out else []
    for split in SPLITS:
        assert sorted(rows_of(tmp_path / "data", split)) == sorted(row[:3] for row in expected[split])


def test_users_with_few_interactions_stay_in_training_with_a_note(rows: list[Row], tmp_path: Path) -> None:
    few = [("one", "x", 1, 5.0), ("two", "x", 1, 5.0), ("two", "y", 2, 5.0)]
    source = write_csv(tmp_path / "few.csv", rows + few)
    dataset = prepare(source, tmp_path / "data")
    train = rows_of(tmp_path / "data", "train")
    assert set(row[:3] for row in few) <= set(train)
    scarce = [user for user, own in of_each_user(kept_by_the_rules(rows + few)).items() if len(own) < 3]
    note = f"{len(scarce)} users have fewer than 3"
    assert [note in it for it in dataset.manifest.notes] == [False, True]
    dropped = prepare(source, tmp_path / "core", core=3)
    assert not any("fewer than 3" in note for note in dropped.manifest.notes)


@pytest.mark.parametrize(("test_fraction", "valid_fraction"), [(0.2, 0.1), (0.5, 0.0)])
def test_ratio(
    rows: list[Row], source: Path, tmp_path: Path, test_fraction: float, valid_fraction: float
) -> None:
    def split(out: str, seed: int) -> dict[str, set[tuple[str, str]]]:
        prepare(
            source,
            tmp_path / out,
            split="ratio",
            test_fraction=test_fraction,
            valid_fraction=valid_fraction,
            seed=seed,
        )
        return {name: pairs_of(tmp_path / out, name) for name in SPLITS}

    def share(rows: int, fraction: float) -> int:
        return min(int(rows * fraction + 0.5), rows - 1)

    first, again, other = split("a", 0), split("b", 0), split("c", 1)
    assert first == again
    assert first["test"] != other["test"]
    assert first["test"] | first["valid"] | first["train"] == {row[:2] for row in kept_by_the_rules(rows)}
    for user, own in of_each_user(kept_by_the_rules(rows)).items():
        tested = share(len(own), test_fraction)
        validated = share(len(own) - tested, valid_fraction)
        for found in (first, other):
            counts = {name: sum(pair[0] == user for pair in found[name]) for name in SPLITS}
            assert counts == {
                "train": len(own) - tested - validated,
                "valid": validated,
                "test": tested,
            }


def test_temporal(rows: list[Row], source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "data", split="temporal", core=3)
    kept = kept_by_the_rules(rows, core=3)
    moments = [*sorted({row[2] for row in kept}), 401]

    def first_moment(wanted: float) -> int:
        return next(moment for moment in moments if sum(row[2] >= moment for row in kept) <= wanted)

    test = first_moment(0.2 * len(kept))
    in_test = sum(row[2] >= test for row in kept)
    valid = first_moment(in_test + 0.1 * (len(kept) - in_test))
    assert valid < test
    expected = {
        "train": [row for row in kept if row[2] < valid],
        "valid": [row for row in kept if valid <= row[2] < test],
        "test": [row for row in kept if row[2] >= test],
    }
    for split in SPLITS:
        assert sorted(rows_of(tmp_path / "data", split)) == sorted(row[:3] for row in expected[split])


def write_given(folder: Path, **splits: str) -> Path:
    folder.mkdir()
    for name, text in splits.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_given_split(tmp_path: Path) -> None:
    source = write_given(
        tmp_path / "given",
        train="0 0 1 2 3 4 5 6 7 8 9\n1 0 1 2\n2 5\n",
        test="0 10 11 3\n1 3\n3 7\n",  # 0 has 3 in training too; nobody trains 10 and 11, nor user 3
    )
    dataset = prepare(source, tmp_path / "data", valid_fraction=0.25)
    assert dataset.manifest.split.protocol == "given"
    assert pairs_of(tmp_path / "data", "test") == {("0", "10"), ("0", "11"), ("1", "3"), ("3", "7")}
    train, valid = pairs_of(tmp_path / "data", "train"), pairs_of(tmp_path / "data", "valid")
    assert train | valid == {("0", str(n)) for n in range(10)} | {("1", str(n)) for n in range(3)} | {
        ("2", "5")
    }
    assert not train & valid
    assert Counter(user for user, _ in valid) == {"0": 3, "1": 1}  # 2.5 and 0.75 rounded; of one never
    assert sorted(keys_of(tmp_path / "data", "user")) == list("0123")


def test_given_validation_is_kept(tmp_path: Path) -> None:
    source = write_given(tmp_path / "given", train="0 0 1 2 3\n1 0 1 2 3\n", valid="0 4\n", test="1 5\n")
    prepare(source, tmp_path / "data", valid_fraction=0.5, rows_per_shard=3)
    assert pairs_of(tmp_path / "data", "valid") == {("0", "4")}
    assert pairs_of(tmp_path / "data", "test") == {("1", "5")}
    assert len(rows_of(tmp_path / "data", "train")) == 8


def test_what_is_in_validation_and_test_is_tested(tmp_path: Path) -> None:
    source = write_given(
        tmp_path / "given", train="0 0 1 2\n1 0 1\n", valid="0 4 5 5 2\n1 0\n", test="0 4 5\n1 5 0\n"
    )
    dataset = prepare(source, tmp_path / "data", valid_fraction=0)
    assert pairs_of(tmp_path / "data", "test") == {("0", "4"), ("0", "5"), ("1", "5")}
    assert pairs_of(tmp_path / "data", "valid") == set()
    counts = rows_add_up(dataset)
    assert (counts["repeated"], counts["held_out_in_training"], counts["valid_in_test"]) == (1, 3, 2)
    notes = "\n".join(dataset.manifest.notes)
    assert "test keeps 2 interactions that the source has in its validation as well" in notes
    assert "training keeps 3 interactions" in notes


@pytest.mark.parametrize("repeat", ["first", "last", "sum", "keep"])
def test_a_split_that_is_not_used_decides_nothing(tmp_path: Path, repeat: str) -> None:
    train = [("u1", "i0", 10, 1), *(("u1", f"i{n}", 10 + n, 1) for n in range(1, 5))]
    test = [("u1", "i0", 1000, 5), ("u1", "i2", 1001, 3)]
    (tmp_path / "split").mkdir()
    for name, rows in (("split/train", train), ("split/test", test), ("whole", train + test)):
        lines = [",".join(map(str, row)) for row in [("user", "item", "time", "weight"), *rows]]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    made = [
        prepare(
            tmp_path / source,
            tmp_path / f"data of {source}",
            split="leave-one-out",
            repeat=repeat,
            columns={"weight": "weight"},
        )
        for source in ("split", "whole.csv")
    ]
    for kind in ("train", "valid", "test"):
        ours, other = (rows_of(Path(dataset.folder.path), kind) for dataset in made)
        assert ours == other
    assert made[0].manifest.source.rows == made[1].manifest.source.rows
    assert not any("training keeps" in note for note in made[0].manifest.notes)


def test_source_order_is_used_without_timestamps(tmp_path: Path) -> None:
    source = tmp_path / "pairs.txt"
    source.write_text("1 5\n2 9\n1 3\n2 3\n1 5\n1 4\n2 1\n")
    dataset = prepare(source, tmp_path / "data", format="pairs")
    assert pairs_of(tmp_path / "data", "train") == {("1", "5"), ("2", "9")}
    assert pairs_of(tmp_path / "data", "valid") == {("1", "3"), ("2", "3")}
    assert pairs_of(tmp_path / "data", "test") == {("1", "4"), ("2", "1")}
    assert dataset.manifest.source.interactions_in_time_order == "position in the source"


# Sequence rows.


def sequences_of(folder: Path) -> dict[str, list[tuple[str, list[str]]]]:
    """(user key, item keys oldest first) of every row, by shard."""
    users, items = keys_of(folder, "user"), keys_of(folder, "item")
    result = {}
    for path in sorted((folder / "sequences").glob("*")):
        columns = pq.read_table(path).to_pydict()
        assert list(columns) == ["user", "items"]
        result[path.name] = []
        for user, row in zip(*columns.values(), strict=True):
            there = [item for item in row if item >= 0]
            assert row == [-1] * (len(row) - len(there)) + there
            result[path.name].append((users[user], [items[item] for item in there]))
    return result


@pytest.mark.parametrize("split", ["leave-one-out", "ratio", "temporal"])
@pytest.mark.parametrize(("length", "stride"), [(50, None), (5, None), (5, 1), (6, 4)])
def test_sequence_rows_are_windows_over_training(
    source: Path, tmp_path: Path, split: str, length: int, stride: int | None
) -> None:
    options = {} if length == 50 else {"sequence_length": length, "sequence_stride": stride}
    prepare(source, tmp_path / "data", split=split, rows_per_shard=350, **options)
    expected = {}
    for shard, rows in shard_rows(tmp_path / "data", "train").items():
        expected[shard] = []
        for user, own in of_each_user(rows).items():
            ends = range(len(own), 1, -(stride or length))
            windows = [own[max(0, end - length - 1) : end] for end in reversed(ends)]
            expected[shard] += [(user, [item for _, item, _ in window]) for window in windows]
    found = sequences_of(tmp_path / "data")
    assert len(found) == 3
    assert found == expected
    manifest = json.loads((tmp_path / "data" / "dataset.json").read_text())
    rows = sum(map(len, found.values()))
    assert manifest["sequences"] == {"length": length, "stride": stride or length, "rows": rows}
    schema = pq.read_schema(tmp_path / "data" / "sequences" / "00000.parquet")
    assert (str(schema.field("user").type), str(schema.field("items").type.value_type)) == ("int32", "int32")
    assert schema.field("items").type.list_size == length + 1
    check_manifest(tmp_path / "data")


def test_sequence_rows_of_hand_made_source(hand_made: Path, tmp_path: Path) -> None:
    prepare(hand_made, tmp_path / "data")
    # What is left to training of 9, ann and 日本 is a single item.
    assert sequences_of(tmp_path / "data") == {"00000.parquet": [("10", ["b", "c"]), ("Ω", ["10", "a"])]}


# Files: many sources, many shards, the same bytes.


def test_several_files_one_compressed(rows: list[Row], source: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(3):
        write_csv(parts / f"part-{number}.csv", rows[number * 500 : (number + 1) * 500])
    (parts / "part-1.csv.gz").write_bytes(gzip.compress((parts / "part-1.csv").read_bytes()))
    (parts / "part-1.csv").unlink()
    prepare(parts, tmp_path / "folder")
    prepare(source, tmp_path / "file")
    folder, file = contents(tmp_path / "folder"), contents(tmp_path / "file")
    del folder["dataset.json"], file["dataset.json"]  # tells the source's address
    assert folder == file


def test_many_shards(rows: list[Row], source: Path, tmp_path: Path) -> None:
    for out, rows_per_shard in (("one", 1 << 20), ("many", 400), ("again", 400)):
        prepare(source, tmp_path / out, split="ratio", core=3, rows_per_shard=rows_per_shard)
    one, many = contents(tmp_path / "one"), contents(tmp_path / "many")
    assert many == contents(tmp_path / "again")
    assert [one[name] for name in ("users.parquet", "items.parquet")] == [
        many[name] for name in ("users.parquet", "items.parquet")
    ]
    assert len(shard_rows(tmp_path / "many", "train")) == 3
    users = keys_of(tmp_path / "many", "user")
    shard_of_user: dict[str, str] = {}
    for split in SPLITS:
        assert sorted(rows_of(tmp_path / "many", split)) == sorted(rows_of(tmp_path / "one", split))
        for shard, there in shard_rows(tmp_path / "many", split).items():
            assert there == sorted(there, key=lambda row: (users.index(row[0]), row[2]))
            for user, _, _ in there:
                assert shard_of_user.setdefault(user, shard) == shard
    check_manifest(tmp_path / "many")


def check_manifest(folder: Path) -> None:
    """The manifest lists all files with true sizes, rows and checksums, and counts the rows of lanes."""
    files = contents(folder)
    manifest = json.loads(files.pop("dataset.json"))
    entries, lanes = manifest["files"], manifest["lanes"]
    lane_of_user = np.repeat(np.arange(len(lanes["users"])), lanes["users"])
    for kind in ("train", "sequences"):
        shards = {int(path.stem): pq.read_table(path) for path in (folder / kind).glob("*")}
        users = np.concatenate([shard["user"].to_numpy() for shard in shards.values()])
        assert np.bincount(lane_of_user[users], minlength=64).tolist() == lanes[kind]
        for number, shard in shards.items():
            groups = lane_of_user[shard["user"].to_numpy()] // (64 // lanes["groups"])
            assert set(groups) == {number % lanes["groups"]}
    assert {entry["name"] for entry in entries} == set(files)
    assert len(entries) == len(files)
    for entry in entries:
        data = files[entry["name"]]
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
        assert entry["rows"] == pq.read_metadata(folder / entry["name"]).num_rows


def test_same_source_gives_same_bytes_and_a_correct_manifest(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "a", core=3)
    prepare(source, tmp_path / "b", core=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    check_manifest(tmp_path / "a")


def test_splits_are_disjoint_and_complete(rows: list[Row], source: Path, tmp_path: Path) -> None:
    for split in ("leave-one-out", "ratio", "temporal"):
        prepare(source, tmp_path / split, split=split)
        assert len(all_rows(tmp_path / split)) == len(set(all_rows(tmp_path / split)))
        assert set(all_rows(tmp_path / split)) == {row[:3] for row in kept_by_the_rules(rows)}


# Published data sets.


def published(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"the data set {name} is not in {REAL}")
    return REAL / name


def encoded(folder: Path, split: str) -> np.ndarray:
    parts = [pq.read_table(path) for path in sorted((folder / split).glob("*"))]
    return np.concatenate(
        [part["user"].to_numpy().astype(np.int64) * (1 << 20) + part["item"].to_numpy() for part in parts]
    )


@pytest.mark.parametrize(
    ("name", "users", "items", "train", "test"),
    [
        ("ml-1m", 6_040, 3_706, 800_005, 200_204),
        ("phone", 27_879, 10_429, 155_163, 39_276),
        ("beauty", None, None, 63_601, 18_696),
        ("gowalla", 29_858, 40_981, 810_128, 217_242),
    ],
)
def test_published_splits(
    tmp_path: Path, name: str, users: int | None, items: int | None, train: int, test: int
) -> None:
    source = published(name)
    counts = prepare(source, tmp_path / "data").manifest.counts
    assert counts.train + counts.valid == train
    assert counts.test == test
    assert users is None or (counts.users, counts.items) == (users, items)
    trained, tested = (encoded(tmp_path / "data", split) for split in ("train", "test"))
    assert len(trained) == counts.train
    assert len(tested) == counts.test
    assert not np.isin(tested, trained).any()
    for split in ("train", "test") if name == "beauty" else ():
        lines = (line.split() for line in (source / f"{split}.txt").read_text().splitlines())
        pairs = {(user, item) for user, *own in lines for item in own}
        carved = pairs_of(tmp_path / "data", "valid") if split == "train" else set()
        assert pairs_of(tmp_path / "data", split) | carved == pairs


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [("ml-100k", 943, 1_682, 100_000), ("video-games", 31_013, 23_715, 287_107)],
)
def test_published_interactions(tmp_path: Path, name: str, users: int, items: int, interactions: int) -> None:
    counts = prepare(published(name), tmp_path / "data").manifest.counts
    assert (counts.users, counts.items, counts.interactions) == (users, items, interactions)
    path = max(published(name).iterdir(), key=lambda file: file.stat().st_size)  # beside titles
    lines = path.read_text().splitlines()[name == "ml-100k" :]
    with_enough = sum(count >= 3 for count in Counter(line.split()[0] for line in lines).values())
    assert (counts.valid, counts.test) == (with_enough, with_enough)
    trained, tested = (encoded(tmp_path / "data", split) for split in ("train", "test"))
    assert not np.isin(tested, trained).any()


# Bad input, and what is left after it.


def failing(source: Path, out: Path, **options) -> str:
    """The message of a preparation that fails, after a look at what it left behind."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(AdarError) as caught:
        prepare(source, out, **options)
    assert sorted(out.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "data"


def test_missing_source(tmp_path: Path, out: Path) -> None:
    assert str(tmp_path / "nowhere.csv") in failing(tmp_path / "nowhere.csv", out)


def test_negative_timestamp(rows: list[Row], tmp_path: Path, out: Path) -> None:
    good = write_csv(tmp_path / "good.csv", rows[:10])
    bad = write_csv(tmp_path / "bad.csv", [*rows[:10], ("u1", "i1", -5, 3.0), *rows[10:]])
    message = failing(bad, out)
    assert f"{bad}: line 12:" in message
    assert "-5" in message
    assert good.exists()


def test_filtering_that_leaves_nothing(source: Path, out: Path) -> None:
    assert "filtering leaves nothing" in failing(source, out, core=1000)
    assert "--core 1000" in failing(source, out, core=1000)
    assert "--min-rating" in failing(source, out, min_rating=6)


def test_options_that_need_ratings_timestamps_or_a_given_split(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "pairs.txt"
    source.write_text("1 5\n2 9\n1 3\n")
    assert "--min-rating" in failing(source, out, format="pairs", min_rating=3)
    assert "--split" in failing(source, out, format="pairs", split="temporal")
    assert "--split" in failing(source, out, format="pairs", split="given")


@pytest.mark.parametrize(("length", "stride"), [(0, None), (5, 6), (5, 0)])
def test_invalid_sequence_windows(source: Path, out: Path, length: int, stride: int | None) -> None:
    message = failing(source, out, sequence_length=length, sequence_stride=stride)
    assert f"--sequence-{'length 0' if stride is None else f'stride {stride}'}" in message


def test_split_that_leaves_no_training(tmp_path: Path, out: Path) -> None:
    source = write_given(tmp_path / "given", train="0\n1\n", test="0 1 2\n1 3\n")
    message = failing(source, out)
    assert "nothing for training" in message


def test_existing_output_is_refused_and_unchanged(hand_made: Path, source: Path, out: Path) -> None:
    prepare(hand_made, out)
    before = contents(out)
    assert "--replace" in failing(source, out)
    assert contents(out) == before
    # Even with replace, a failed preparation keeps the old dataset.
    failing(source, out, core=1000, replace=True)
    assert contents(out) == before
    prepare(source, out, replace=True)
    assert len(keys_of(out, "user")) > 5


def test_folder_of_other_files_is_never_replaced(hand_made: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("ten years of work")
    assert "dataset.json" in failing(hand_made, out, replace=True)
    assert contents(out) == {"thesis.txt": b"ten years of work"}


def test_output_that_is_a_file(hand_made: Path, out: Path) -> None:
    out.write_text("mine")
    for replace in (False, True):
        assert "is a file" in failing(hand_made, out, replace=replace)
        assert out.read_text() == "mine"


@pytest.mark.parametrize("stage", ["reading", "sorting", "writing"])
def test_interruption_leaves_nothing(source: Path, out: Path, stage: str) -> None:
    def interrupt(now: str, rows: int) -> None:
        if now == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, on_progress=interrupt)
    assert not list(out.parent.iterdir())


def test_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    many = [(f"u{n // 20}", f"i{random.Random(n).randrange(5000)}", n * 7919, 1.0) for n in range(30_000)]
    source = write_csv(tmp_path / "many.csv", many)
    message = failing(source, tiny_disk / "data")
    assert str(tiny_disk / "data") in message
    assert "disk is full" in message
    assert not list(tiny_disk.iterdir())


# Every row is accounted for.


def rows_add_up(dataset: Dataset) -> dict[str, int]:
    counts = dataset.manifest.source.rows.model_dump()
    assert counts["read"] == sum(counts.values()) - counts["read"]
    assert counts["kept"] == dataset.manifest.counts.interactions
    return counts


@pytest.mark.parametrize("repeat", ["first", "last", "keep"])
def test_rows_add_up(rows: list[Row], tmp_path: Path, repeat: str) -> None:
    source = write_csv(tmp_path / "x.csv", rows)
    with source.open("a", encoding="utf-8") as file:
        file.write('u1,i1\nnan,i1,5,3\nu1,"i1,5,3\n')
    out = tmp_path / "data"
    dataset = prepare(source, out, repeat=repeat, min_rating=2, core=3, max_bad_rows=3, rows_per_shard=200)
    counts = rows_add_up(dataset)
    pairs = {row[:2] for row in rows}
    assert counts["read"] == len(rows) + 3
    assert counts["bad"] == 3
    assert counts["repeated"] == (0 if repeat == "keep" else len(rows) - len(pairs))
    listed = [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().splitlines()]
    last = len(rows) + 4
    assert sorted((row["file"], row["line"]) for row in listed) == [
        (str(source), last + n) for n in (-2, -1, 0)
    ]
    if repeat == "first":
        assert counts["kept"] == len(kept_by_the_rules(rows, 2, 3))
    if repeat == "keep":
        assert counts["low_rating"] == sum(row[3] < 2 for row in rows)


def test_rows_of_a_given_split_add_up(tmp_path: Path) -> None:
    source = write_given(tmp_path / "given", train="0 0 1 2 2\n1 0 1 2\n", test="0 10 2 2\n1 3 3\n")
    dataset = prepare(source, tmp_path / "data", valid_fraction=0)
    counts = rows_add_up(dataset)
    assert (counts["read"], counts["repeated"], counts["held_out_in_training"]) == (12, 3, 1)
    assert any(
        "training keeps 1 interaction that the source has in its test" in note
        for note in dataset.manifest.notes
    )


def test_repeats(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "x.csv", [("u", item, n, 5.0) for n, item in enumerate("abcab")])
    order = {"first": "abc", "last": "cab", "keep": "abcab"}
    for repeat, items in order.items():
        dataset = prepare(source, tmp_path / repeat, repeat=repeat)
        assert "".join(item for _, item, _ in all_rows(tmp_path / repeat)) == items
        assert dataset.keeps_repeats == (repeat == "keep")


def weights_of(folder: Path) -> dict[tuple[str, str], float]:
    users, items = keys_of(folder, "user"), keys_of(folder, "item")
    tables = [pq.read_table(path).to_pydict() for split in SPLITS for path in (folder / split).glob("*")]
    return {
        (users[user], items[item]): weight
        for table in tables
        for user, item, weight in zip(table["user"], table["item"], table["weight"], strict=True)
    }


def test_weights_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    bad = ["", "nan", "0", "-1", "inf", "2e6", "1e-7", "many"]
    rows = ["user,item,timestamp,weight", "u,a,1,2", "u,b,2,0.5", "u,c,3,1e6", "u,d,4,7"]
    source.write_text("\n".join(rows + [f"v,{n},{n},{weight}" for n, weight in enumerate(bad)]) + "\n")
    plain = prepare(source, tmp_path / "plain")
    assert plain.manifest.mean_weight is None
    assert b"mean_weight" not in (tmp_path / "plain" / "dataset.json").read_bytes()
    assert "line 6: the weight is missing" in failing(source, tmp_path / "none", columns={"weight": "weight"})
    dataset = prepare(source, tmp_path / "data", columns={"weight": "weight"}, max_bad_rows=len(bad))
    assert dataset.manifest.source.rows.bad == len(bad)
    assert weights_of(tmp_path / "data") == {("u", "a"): 2, ("u", "b"): 0.5, ("u", "c"): 1e6, ("u", "d"): 7}
    assert dataset.manifest.mean_weight == (2 + 0.5) / 2  # c is validation, d is test
    listed = [json.loads(line) for line in (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines()]
    assert listed[-1]["problem"] == "the weight 'many' is not a number from 1e-06 to 1e+06"


def test_workers_have_the_weights_of_their_rows(rows: list[Row], tmp_path: Path) -> None:
    source = write_csv(tmp_path / "x.csv", [(*row[:3], n + 1) for n, row in enumerate(rows)])
    dataset = prepare(source, tmp_path / "data", columns={"weight": "rating"}, rows_per_shard=300)
    expected = weights_of(tmp_path / "data")
    users, items = keys_of(tmp_path / "data", "user"), keys_of(tmp_path / "data", "item")
    train = 0.0
    for worker in range(3):
        its = WorkerRows(dataset, "train", 0, worker, 3)
        for user, item, weight in zip(*its.all_rows(), its.all_weights(), strict=True):
            assert weight == expected[users[user], items[item]]
            train += weight
    assert dataset.manifest.mean_weight == train / dataset.rows("train")


def test_repeated_interactions_are_added_up(tmp_path: Path) -> None:
    rows = [("u", item, n, n + 1.0) for n, item in enumerate("abcabd")]
    source = write_csv(tmp_path / "x.csv", rows)
    for columns, weights in ((None, [1, 2, 2, 1]), ({"weight": "rating"}, [3, 1 + 4, 2 + 5, 6])):
        out = tmp_path / ("counted" if columns is None else "weighed")
        dataset = prepare(source, out, repeat="sum", columns=columns)
        assert [item for _, item, _ in all_rows(out)] == list("cabd")  # each at its last time
        assert weights_of(out) == {("u", item): weight for item, weight in zip("cabd", weights, strict=True)}
        assert dataset.manifest.source.rows.repeated == 2
        assert not dataset.keeps_repeats
        assert any("their weights were added up" in note for note in dataset.manifest.notes)


def test_what_a_given_split_holds_out_adds_nothing_to_training(tmp_path: Path) -> None:
    source = write_split(tmp_path / "d", train="u-a u-a u-b", test="u-a u-c u-c")
    prepare(source, tmp_path / "data", repeat="sum", valid_fraction=0)
    assert weights_of(tmp_path / "data") == {("u", "a"): 2, ("u", "b"): 1, ("u", "c"): 2}


def test_bad_rows_of_all_files_count_together(tmp_path: Path, out: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("user,item\nu,i\nNULL,i\n")
    message = failing(str(tmp_path / "*.csv"), out, max_bad_rows=1)
    assert "a.csv: line 3" in message
    assert "2 bad rows, more than --max-bad-rows 1" in message


# Splits and times of the source.


def write_split(folder: Path, **contents: str) -> Path:
    folder.mkdir()
    for name, rows in contents.items():
        lines = [f"{user},{item}\n" for user, item in (pair.split("-") for pair in rows.split())]
        (folder / f"{name}.csv").write_text("user,item\n" + "".join(lines))
    return folder


def test_split_of_file_names(tmp_path: Path) -> None:
    source = write_split(tmp_path / "d", train="u-a u-b v-a v-b", val="u-c", test="u-d v-c")
    prepare(source, tmp_path / "data")
    found = {split: pairs_of(tmp_path / "data", split) for split in SPLITS}
    assert found == {
        "train": {("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")},
        "valid": {("u", "c")},
        "test": {("u", "d"), ("v", "c")},
    }
    anew = prepare(source, tmp_path / "anew", split="leave-one-out")
    assert any("own split was not used" in note for note in anew.manifest.notes)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("train", "val"), "none for test"),
        (("val", "test"), "none for train"),
        (("train", "test", "more"), "more.csv: its name tells no split"),
    ],
)
def test_split_that_is_not_whole(tmp_path: Path, out: Path, names: tuple[str, ...], part: str) -> None:
    source = write_split(tmp_path / "d", **dict.fromkeys(names, "u-a u-b u-c"))
    assert part in failing(source, out)


def test_files_whose_times_count_differently(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,time\nu,i,1577836800\n")
    (tmp_path / "b.csv").write_text("user,item,time\nu,j,1577836800900\n")
    message = failing(str(tmp_path / "*.csv"), out)
    assert "b.csv" in message
    assert "milliseconds" in message


def test_times_within_a_second_decide_the_order(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("user,item,time\n" + "".join(f"u,{n},1577836800{n}00\n" for n in (9, 1, 5, 3)))
    prepare(source, tmp_path / "data", split="temporal", test_fraction=0.25, valid_fraction=0.4)
    items = [[item for _, item, _ in rows_of(tmp_path / "data", split)] for split in SPLITS]
    assert items == [["1", "3"], ["5"], ["9"]]


# Folders, parts and notes.


def test_hive_partitions(tmp_path: Path) -> None:
    for day, item in (("2020-01-02", "b"), ("2020-01-01", "a"), ("2020-01-03", "c")):
        folder = tmp_path / "d" / f"day={day}" / "user=al%20x"
        folder.mkdir(parents=True)
        (folder / "part-0.csv").write_text(f"item\n{item}\n")
    (tmp_path / "d" / "_SUCCESS").write_text("")
    (tmp_path / "d" / "day=2020-01-03" / "_temporary").mkdir()
    dataset = prepare(tmp_path / "d", tmp_path / "data", columns={"timestamp": "day"})
    assert [row[:2] for row in all_rows(tmp_path / "data")] == [("al x", item) for item in "abc"]
    assert dataset.manifest.source.files == 3


def test_empty_parts_and_other_files_are_noted(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "0.csv").write_text("user,item\nu,a\nu,b\n")
    (folder / "1.csv").write_text("")
    (folder / "2.csv.gz").write_bytes(gzip.compress(b""))
    (folder / "3.csv").write_text("user,item\n")
    (folder / "notes.md").write_text("x")
    dataset = prepare(folder, tmp_path / "data")
    assert len(all_rows(tmp_path / "data")) == 2
    assert dataset.manifest.notes[0].startswith("1 other file there was not read (notes.md)")
    assert "2 files are empty (1.csv, " in dataset.manifest.notes[1]


def test_notes(tmp_path: Path) -> None:
    def notes(source: Path, **options) -> str:
        out = tmp_path / f"data-{source.stem}"
        return "; ".join(prepare(source, out, replace=True, **options).manifest.notes)

    few = write_csv(
        tmp_path / "few.csv", [(f"u{u}", f"i{u + n}", n, 5.0) for u in range(9) for n in range(4)]
    )
    assert "validation has 0 interactions, though a share of 0.1 would be 3" in notes(few, split="ratio")
    assert "validation" not in notes(few, split="ratio", valid_fraction=0.3)
    cold = write_csv(tmp_path / "cold.csv", [(f"u{t}", f"i{t % 8}", t, 5.0) for t in range(40)])
    told = notes(cold, split="temporal")
    assert "8 of 8 users in test have no interaction in training" in told
    assert "items in test" not in told
    times = tmp_path / "times.csv"
    times.write_text("user,item,event_date\n" + "".join(f"u,{n},2020\n" for n in range(4)))
    told = notes(times)
    assert "no column was taken for times, though event_date may hold some" in told
    assert "in the order of the source" in told
    assert "test is empty" in notes(write_csv(tmp_path / "two.csv", [("u", "a", 1, 5.0), ("u", "b", 2, 5.0)]))
