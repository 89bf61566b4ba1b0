"""Tasks run the same in threads and on Ray, in memory and out of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adar_ray.data import local_driver
from adar_ray.data.driver import Driver, drained
from adar_ray.data.local_driver import LocalDriver
from adar_ray.data.prepare import prepare
from adar_ray.data.synthetic import synthesize
from adar_ray.data.write import MOST_SHARDS, shard_count
from adar_ray.documents import parse_json
from adar_ray.errors import AdarError


@pytest.fixture(params=["memory", "disk", pytest.param("ray", marks=pytest.mark.ray)])
def runner(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
        from adar_ray.data.ray_driver import RayDriver

        return RayDriver()
    if request.param == "disk":
        monkeypatch.setattr(local_driver, "_KEPT_BYTES", 0)
    return LocalDriver(tmp_path)


def count_up(start: int, *sizes: int) -> Generator[pa.Table, None, int]:
    for size in sizes:
        yield pa.table({"n": np.arange(start, start + size)})
        start += size
    return start


def double(table: pa.Table, factor: int) -> Generator[pa.Table, None, int]:
    yield pa.table({"n": table["n"].to_numpy() * factor})
    return table.num_rows


def to_numbers(table: pa.Table) -> Generator[pa.Table, None, list[int]]:
    yield from ()
    return table["n"].to_pylist()


def by_remainder(table: pa.Table, parts: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
    for half in (table.slice(0, 3), table.slice(3)):
        yield (half["n"].to_numpy() % parts).astype(np.int32), half


def numbers_in(runner: Driver, blocks: list) -> list[list[int]]:
    return [result.found for result in runner.run(to_numbers, [(block,) for block in blocks])]


def test_results_come_in_order(runner: Driver) -> None:
    told: list[int] = []
    results = list(runner.run(count_up, [(0, 4, 2), (6,), (6, 3)], told.append))
    assert [result.found for result in results] == [6, 6, 9]
    assert [len(result.blocks) for result in results] == [2, 0, 1]
    assert told == sorted(told)
    assert told[-1] == 9
    blocks = [block for result in results for block in result.blocks]
    shared = runner.share(2)
    doubled = list(runner.run(double, ((block, shared) for block in drained(blocks))))
    assert not blocks
    assert [result.found for result in doubled] == [4, 2, 3]
    found = numbers_in(runner, [block for result in doubled for block in result.blocks])
    assert found == [[0, 2, 4, 6], [8, 10], [12, 14, 16]]


@pytest.mark.parametrize("parts", [1, 3])
def test_a_shuffle_keeps_the_order_of_each_part(runner: Driver, parts: int) -> None:
    results = runner.run(count_up, [(20, 9), (0, 5, 4), (11, 6)])
    blocks = [(block, parts) for result in results for block in result.blocks]
    found = numbers_in(runner, runner.shuffle(by_remainder, blocks, parts))
    assert all(found)
    expected = [*range(20, 29), *range(9), *range(11, 17)]
    for part in range(parts):
        (own,) = [
            [n for n in block if n % parts == part]
            for block in found
            if any(n % parts == part for n in block)
        ]
        assert own == [n for n in expected if n % parts == part]
    assert sum(map(len, found)) == len(expected)


def failing(number: int) -> Generator[pa.Table, None, None]:
    if number == 1:
        raise AdarError("x.csv: line 3: bad")
    for _ in range(200 if number else 1):
        yield pa.table({"n": [1]})
        time.sleep(0.01)


def test_an_error_ends_all_tasks(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(AdarError, match="line 3"):
        list(LocalDriver(tmp_path).run(failing, [(number,) for number in range(50)]))
    assert time.monotonic() - started < 2  # one task alone would take as long


def test_files_go_when_their_tables_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_driver, "_KEPT_BYTES", 100)
    local = LocalDriver(tmp_path)
    results = list(local.run(count_up, [(0, 10), (0, 10), (0, 10)]))
    assert len(list(tmp_path.iterdir())) == 2
    del results[0]  # makes room in memory
    more = list(local.run(count_up, [(0, 10)]))
    assert len(list(tmp_path.iterdir())) == 2
    del results, more
    assert not list(tmp_path.iterdir())


# The same bytes whatever runs the steps.


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of interactions, some of which tie, repeat, or have ids that only look different."""
    folder = tmp_path_factory.mktemp("log")
    random = np.random.default_rng(0)
    for number in range(2):
        user, item = (random.random(3000) ** 2 * 90).astype(int), (random.random(3000) ** 3 * 80).astype(int)
        rows = zip(user.tolist(), item.tolist(), random.integers(0, 500, 3000).tolist(), strict=True)
        lines = [f"{u}{'.0' if u % 2 and number else ''},i{i},{time},{time % 5}\n" for u, i, time in rows]
        (folder / f"{number}.csv").write_text("user,item,timestamp,rating\n" + "".join(lines))
    return folder


@pytest.mark.ray
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows_per_shard": 900, "core": 5, "split": "ratio", "repeat": "last", "min_rating": 2},
        {"split": "temporal", "repeat": "keep"},
    ],
)
def test_ray_prepares_the_same_bytes(
    ray_cluster: None, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    monkeypatch.setattr("adar_ray.data.choosing._ROWS_PER_PART", 2500)
    prepare(log, tmp_path / "here", **options)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    prepare(log, tmp_path / "there", **options)
    assert checksums(tmp_path / "here") == checksums(tmp_path / "there")


def test_the_disk_gives_the_same_bytes_as_memory(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(log, tmp_path / "memory", rows_per_shard=900)
    monkeypatch.setattr(local_driver, "_KEPT_BYTES", 0)
    monkeypatch.setattr("adar_ray.data.choosing._ROWS_PER_PART", 800)
    monkeypatch.setattr("adar_ray.data.reading._ROWS_PER_BLOCK", 1)
    prepare(log, tmp_path / "disk", rows_per_shard=900)
    assert checksums(tmp_path / "memory") == checksums(tmp_path / "disk")


@pytest.mark.ray
def test_ray_synthesizes_the_same_bytes(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(80, 60, 900, 5, tmp_path / "here", rows_per_shard=300)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    synthesize(80, 60, 900, 5, tmp_path / "there", rows_per_shard=300)
    assert checksums(tmp_path / "here") == checksums(tmp_path / "there")


def test_nothing_of_ray_is_loaded(log: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from adar_ray.data.prepare import prepare; "
        "from adar_ray.data.synthetic import synthesize; "
        "prepare(sys.argv[1], sys.argv[2] + '/a'); synthesize(5, 20, 25, 0, sys.argv[2] + '/b'); "
        "print(json.dumps([name for name in ('ray', 'torch') if name in sys.modules]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, str(log), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(finished.stdout) == []


def test_a_part_that_is_done_with_leaves_memory(tmp_path: Path) -> None:
    rows = 1 << 20
    before = pa.total_allocated_bytes()
    parts = local_driver._cut(np.arange(rows) % 16, pa.table({"n": pa.array(np.arange(rows)[::-1])}), 16)
    for number in range(15):
        assert parts.pop(number)["n"][0].as_py() == rows - 1 - number
    assert pa.total_allocated_bytes() - before < rows * 8 / 10


def test_a_manifest_of_the_most_shards_can_be_read() -> None:
    assert shard_count(10**12, 1) == shard_count(10**12, 1 << 20) == MOST_SHARDS
    entry = {"name": "x" * 40, "rows": 1 << 40, "bytes": 1 << 40, "sha256": "0" * 64}
    files = [entry] * (5 * MOST_SHARDS)
    assert parse_json(json.dumps({"files": files}), "dataset.json")["files"] == files
