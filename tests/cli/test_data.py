"""`prepare` and the commands of `data`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adar_ray.data.dataset import Dataset
from tests.calling import Adar


def test_prepare(adar: Adar, data: str, hand_made: Path, tmp_path: Path) -> None:
    ended = adar("prepare", hand_made, "--out", tmp_path / "data", "--json", "--min-rating", 4)
    assert ended.json() == {
        "dataset": str(tmp_path / "data"),
        "split": "leave-one-out",
        "users": 5,
        "items": 5,
        "interactions": 10,
        "train": 8,
        "valid": 1,
        "test": 1,
        "rows": {
            "read": 14,
            "bad": 0,
            "repeated": 1,
            "held_out_in_training": 0,
            "valid_in_test": 0,
            "low_rating": 3,
            "few_interactions": 0,
            "kept": 10,
        },
    }
    assert "note: 4 users have fewer than 3 interactions" in ended.err
    table = adar("prepare", hand_made, "--out", tmp_path / "table")
    assert table.status == 0
    assert "interactions" in table.out
    assert "rows repeated" in table.out
    assert "13" in table.out
    assert "writing   13 interactions" in table.err


def test_synthetic(adar: Adar, tmp_path: Path) -> None:
    sizes = ["--users", 20, "--items", 40, "--interactions", 200]
    counts = adar("data", "synthetic", *sizes, "--out", tmp_path / "data", "--json").json()
    assert (counts["users"], counts["items"], counts["interactions"]) == (20, 40, 200)
    assert Dataset.open(tmp_path / "data").n_users == 20


def test_data_list(adar: Adar) -> None:
    names = [row["name"] for row in adar("data", "list", "--json").json()]
    assert "ml-100k" in names
    shown = adar("data", "list").out.splitlines()
    assert [line for line in shown if line and not line.startswith(" ")] == names
    assert max(map(len, shown)) <= 80


def test_wrong_columns(adar: Adar, hand_made: Path, tmp_path: Path) -> None:
    for columns in ("user", "user=", "color=red", "user=nobody", "user=item,user=user"):
        ended = adar("prepare", hand_made, "--out", tmp_path / "data", "--columns", columns)
        assert "--columns" in ended.line()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["here", pytest.param("on Ray", marks=pytest.mark.ray)])
def test_an_error_inside_a_task_is_one_line(
    adar: Adar,
    tmp_path: Path,
    where: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if where == "on Ray":
        request.getfixturevalue("ray_cluster")
        monkeypatch.setenv("RAY_ADDRESS", "auto")
    source = tmp_path / "bad.csv"
    source.write_text("user,item,timestamp\na,b,1\na,c,-1\n")
    assert f"{source}: line 3: " in adar("prepare", source, "--out", tmp_path / "data").line()


def test_prepare_loads_no_pandas_and_leaves_it_to_whoever_wants_it(hand_made: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from adar_ray.cli.main import cli
cli(["prepare", {str(hand_made)!r}, "--out", {str(tmp_path / "out")!r}], standalone_mode=False)
assert "pandas" not in sys.modules
import pyarrow
print(type(pyarrow.table({{"a": [1]}}).to_pandas()).__module__.partition(".")[0])
"""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "pandas"
