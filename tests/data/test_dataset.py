"""Opening and reading datasets; damage is one line that names the file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.data.write import copy_interactions
from adar_ray.errors import LONGEST_MESSAGE, AdarError
from adar_ray.storage import Folder
from tests import sealed
from tests.data.making import with_times


@pytest.fixture
def folder(dataset: Dataset, tmp_path: Path) -> Path:
    """A copy of a good dataset, to be damaged."""
    return Path(shutil.copytree(dataset.folder.path, tmp_path / "data"))


def failing(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= LONGEST_MESSAGE
    return str(caught.value)


def test_reads_shards(folder: Path) -> None:
    dataset = Dataset.open(folder)
    for split in ("train", "valid", "test"):
        shards = [pq.read_table(path) for path in sorted((folder / split).glob("*"))]
        users, items = dataset.read_split(split)
        assert np.array_equal(users, np.concatenate([shard["user"].to_numpy() for shard in shards]))
        assert np.array_equal(items, np.concatenate([shard["item"].to_numpy() for shard in shards]))
        assert dataset.rows(split) == len(users) == sum(shard.num_rows for shard in shards)
        assert [shard.rows for shard in dataset.shards(split)] == [shard.num_rows for shard in shards]
    assert dataset.user_keys().to_pylist() == pq.read_table(folder / "users.parquet")["key"].to_pylist()
    assert dataset.item_keys().to_pylist() == pq.read_table(folder / "items.parquet")["key"].to_pylist()
    assert (dataset.n_users, dataset.n_items) == (300, 400)


def test_a_notebook_shows_a_dataset_in_one_line(dataset: Dataset) -> None:
    counts = dataset.manifest.counts
    assert repr(dataset) == (
        f"Dataset({dataset.name}: 300 users, 400 items, {counts.interactions:,} interactions; "
        f"{dataset.folder.path})"
    )


def test_an_unknown_split_is_refused(dataset: Dataset) -> None:
    known = "give one of train, valid, test"
    assert failing(lambda: dataset.read_split("training")) == f"split 'training': {known}"
    assert failing(lambda: dataset.read_split("sequences")) == f"split 'sequences': {known}"
    assert failing(lambda: dataset.rows("validation")) == f"split 'validation': {known}"
    assert failing(lambda: dataset.shards("tset")) == f"kind 'tset': {known}, sequences"
    assert failing(lambda: dataset.shards_of("tset", 0, 2)) == f"kind 'tset': {known}, sequences"


def test_reads_sequence_shards(folder: Path) -> None:
    dataset = Dataset.open(folder)
    paths = sorted((folder / "sequences").glob("*"))
    assert [shard.name for shard in dataset.shards("sequences")] == [f"sequences/{p.name}" for p in paths]
    for shard, path in zip(dataset.shards("sequences"), paths, strict=True):
        table = pq.read_table(path)
        users, items = dataset.read_sequences(shard)
        assert users.dtype == items.dtype == np.int32
        assert users.tolist() == table["user"].to_pylist()
        assert items.tolist() == table["items"].to_pylist()
        assert items.shape == (shard.rows, dataset.sequences.length + 1)
    assert dataset.sequences.rows == sum(pq.read_metadata(path).num_rows for path in paths)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 64])
@pytest.mark.parametrize("kind", ["train", "test", "sequences"])
def test_workers_share_the_rows_by_user(dataset: Dataset, kind: str, workers: int) -> None:
    read = dataset.read_sequences if kind == "sequences" else dataset.read_shard
    whole = [read(shard) for shard in dataset.shards(kind)]
    shares = []
    for worker in range(workers):
        first, last = dataset.user_range(worker, workers)
        shards = dataset.shards_of(kind, worker, workers)
        parts = [read(shard, (first, last)) for shard in shards]
        shares += parts
        for shard, (users, _) in zip(dataset.shards(kind), whole, strict=True):
            assert shard in shards or not ((users >= first) & (users < last)).any()
        if kind != "test":
            rows_L = dataset.lane_rows(kind)
            own_L = rows_L[worker * 64 // workers : (worker + 1) * 64 // workers]
            assert sum(len(users) for users, _ in parts) == own_L.sum()
    assert len(dataset.shards_of(kind, 0, 4)) < len(whole)
    assert dataset.user_range(0, workers)[0] == 0
    assert dataset.user_range(workers - 1, workers)[1] == dataset.n_users
    assert rows(shares) == rows(whole)


def rows(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[list]:
    """All rows, as lists of the user and whatever the user has there."""
    return sorted(
        [int(u), *np.ravel(i).tolist()] for user, item in parts for u, i in zip(user, item, strict=True)
    )


def test_a_copy_of_the_interactions_keeps_the_lanes(dataset: Dataset, tmp_path: Path) -> None:
    copy_interactions(dataset, Folder.at(tmp_path / "copy"), with_times=False)
    copy = Dataset.open(tmp_path / "copy")
    assert copy.lanes.users == dataset.lanes.users
    assert copy.lanes.train == dataset.lanes.train
    assert copy.lanes.groups == dataset.lanes.groups
    assert sum(copy.lanes.sequences) == 0
    assert copy.sequences.length == dataset.sequences.length
    for split in ("train", "valid", "test"):
        assert np.array_equal(copy.read_split(split), dataset.read_split(split))


def test_a_copy_keeps_the_times_of_first_interactions_if_there_are_times(
    dataset: Dataset, tmp_path: Path
) -> None:
    assert dataset.first_times() is None  # made-up positions
    dated = with_times(dataset)
    first: dict[int, int] = {}
    for split in ("train", "valid", "test"):
        for path in (Path(dataset.folder.path) / split).glob("*"):
            for row in pq.read_table(path).to_pylist():
                first[row["user"]] = min(row["timestamp"], first.get(row["user"], row["timestamp"]))
    expected = [first[user] for user in range(dataset.n_users)]
    assert dated.first_times().tolist() == expected
    for has_them in (False, True):
        folder = tmp_path / str(has_them)
        copy_interactions(dated, Folder.at(folder), with_times=has_them)
        assert Dataset.open(folder).first_times().tolist() == expected
        copy_interactions(Dataset.open(folder), Folder.at(folder / "again"), with_times=False)
        assert Dataset.open(folder / "again").first_times().tolist() == expected


def test_a_copy_of_an_earlier_version_knows_no_times(dataset: Dataset, tmp_path: Path) -> None:
    copy_interactions(dataset, Folder.at(tmp_path / "copy"), with_times=False)
    assert with_times(Dataset.open(tmp_path / "copy")).first_times() is None


def test_checksum_changes_with_the_manifest(folder: Path) -> None:
    before = Dataset.open(folder).checksum
    assert Dataset.open(folder).checksum == before
    manifest = sealed.read(folder / "dataset.json")
    manifest["files"][0]["sha256"] = "0" * 64
    sealed.write(folder / "dataset.json", manifest)
    assert Dataset.open(folder).checksum != before


def test_missing_folder(tmp_path: Path) -> None:
    message = failing(lambda: Dataset.open(tmp_path / "nowhere"))
    assert message.startswith(f"{tmp_path / 'nowhere'}: is not a dataset (there is no such folder)")


def test_folder_without_manifest(tmp_path: Path) -> None:
    message = failing(lambda: Dataset.open(tmp_path))
    assert message.startswith(f"{tmp_path}: is not a dataset (there is no dataset.json in it)")
    assert "adar-ray prepare" in message


@pytest.mark.parametrize(
    "name", ["train/00003.parquet", "test/00000.parquet", "sequences/00001.parquet", "items.parquet"]
)
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{folder}/{name}: the file is missing" in failing(lambda: Dataset.open(folder))


@pytest.mark.parametrize("name", ["train/00001.parquet", "valid/00000.parquet", "users.parquet"])
def test_truncated_file(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    message = failing(lambda: Dataset.open(folder))
    assert message.startswith(f"{folder}/{name}: has {len(data) - 1:,} bytes")
    assert f"not {len(data):,};" in message


@pytest.mark.parametrize("content", [b"secret", None])
def test_a_link_out_of_the_dataset_does_not_tell_what_is_there(
    folder: Path, tmp_path: Path, content: bytes | None
) -> None:
    for target, linked in ((tmp_path / "outside", "items.parquet"), (tmp_path / "elsewhere", "valid")):
        there = target / "00000.parquet" if linked == "valid" else target
        if content is not None:
            there.parent.mkdir(exist_ok=True)
            there.write_bytes(content)
        (folder / linked).rename(folder / "aside")
        (folder / linked).symlink_to(target)
        message = failing(lambda: Dataset.open(folder))
        name = "valid/00000.parquet" if linked == "valid" else linked
        assert message == f"{folder}/{name}: is a link out of the dataset; copy the file in its place"
        (folder / linked).unlink()
        (folder / "aside").rename(folder / linked)
    Dataset.open(folder)


def test_links_to_a_dataset_and_within_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (folder / "items.parquet").rename(folder / "kept.parquet")
    (folder / "items.parquet").symlink_to("kept.parquet")
    assert len(Dataset.open(tmp_path / "link").item_keys()) == Dataset.open(folder).n_items


@pytest.mark.parametrize("place", [0, 100, -1])
def test_flipped_byte(folder: Path, place: int) -> None:
    path = folder / "train" / "00002.parquet"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    dataset = Dataset.open(folder)
    shards = dataset.shards("train")
    dataset.read_shard(shards[1])
    for read in (lambda: dataset.read_shard(shards[2]), lambda: dataset.read_split("train")):
        assert f"{path}: is damaged (wrong checksum)" in failing(read)


def test_flipped_byte_in_sequences(folder: Path) -> None:
    path = folder / "sequences" / "00002.parquet"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    dataset = Dataset.open(folder)
    shard = dataset.shards("sequences")[2]
    assert f"{path}: is damaged (wrong checksum)" in failing(lambda: dataset.read_sequences(shard))


def test_a_manifest_of_another_version(folder: Path) -> None:
    """Later ones have checksums, earlier ones have none."""
    file = folder / "dataset.json"
    content = sealed.read(file)
    sealed.write(file, {**content, "schema_version": 5})
    assert failing(lambda: Dataset.open(folder)) == (
        f"{file}: is damaged (schema_version: this program reads 4, not 5); restore it, or prepare again"
    )
    file.write_text(json.dumps({**content, "schema_version": 3}, indent=2) + "\n")
    assert failing(lambda: Dataset.open(folder)) == (
        f"{file}: is damaged (it does not end with a checksum: it was cut off, edited, or written by an "
        "earlier version); restore it, or prepare again"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"schema_version": ' + "9" * 5000 + "}",
        '{"schema_version": 4, "na',
        '{"schema_version": 4}',
        "\xff\xfe",
        "[]",
        "null",
        "7",
    ],
)
def test_damaged_manifest(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_bytes(text.encode("latin-1"))
    assert failing(lambda: Dataset.open(folder)).startswith(f"{folder}/dataset.json: ")


def rewrite(folder: Path, name: str, table: pa.Table, **changes: object) -> Dataset:
    """The dataset with another file in place of one, which the manifest knows."""
    pq.write_table(table, folder / name)
    data = (folder / name).read_bytes()
    manifest = sealed.read(folder / "dataset.json")
    (entry,) = (entry for entry in manifest["files"] if entry["name"] == name)
    entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    sealed.write(folder / "dataset.json", manifest)
    return Dataset.open(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.drop_columns("item"), "no column item of the type int32"),
        (lambda t: t.append_column("item", t["item"]), "no column item of the type int32"),
        (lambda t: t.set_column(1, "item", t["item"].cast(pa.int64())), "no column item of the type int32"),
        (lambda t: t.set_column(1, "item", pa.nulls(len(t), pa.int32())), "column item lacks values"),
        (lambda t: t.set_column(1, "item", pa.array([400] * len(t), pa.int32())), "not from 0 to 399"),
        (lambda t: t.set_column(0, "user", pa.array([-1] * len(t), pa.int32())), "not from 0 to 299"),
        (lambda t: t.slice(1), "rows, not"),
    ],
)
def test_a_shard_that_is_no_shard(folder: Path, change, problem: str) -> None:
    name = "train/00001.parquet"
    dataset = rewrite(folder, name, change(pq.read_table(folder / name)))
    message = failing(lambda: dataset.read_split("train"))
    assert message.startswith(f"{folder}/{name}: is damaged (")
    assert problem in message


@pytest.mark.parametrize(
    "items",
    [
        lambda n, size: pa.array([[1] * (size - 1)] * n, pa.list_(pa.int32(), size - 1)),
        lambda n, size: pa.array([[None] * size] * n, pa.list_(pa.int32(), size)),
        lambda n, size: pa.array([[400] * size] * n, pa.list_(pa.int32(), size)),
        lambda n, size: pa.array([[-2] * size] * n, pa.list_(pa.int32(), size)),
        lambda n, size: pa.array([[1] * size] * n),
    ],
)
def test_sequences_that_are_none(folder: Path, items) -> None:
    name = "sequences/00000.parquet"
    table = pq.read_table(folder / name)
    size = Dataset.open(folder).sequences.length + 1
    dataset = rewrite(folder, name, table.set_column(1, "items", items(len(table), size)))
    assert failing(lambda: dataset.read_sequences(dataset.shards("sequences")[0])).startswith(
        f"{folder}/{name}: is damaged ("
    )


def test_a_file_that_is_no_parquet_although_its_checksum_is_right(folder: Path) -> None:
    name = "users.parquet"
    table = pq.read_table(folder / name)
    for content in (b"", b"PAR1", (folder / name).read_bytes()[:-9] + b"PAR1"):
        rewrite(folder, name, table)
        (folder / name).write_bytes(content)
        manifest = sealed.read(folder / "dataset.json")
        manifest["files"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        sealed.write(folder / "dataset.json", manifest)
        assert f"{folder}/{name}: is damaged (" in failing(Dataset.open(folder).user_keys)
