"""`evaluate`, `recommend`, `export`, `report` and `publish`."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.calling import Adar
from tests.cli.conftest import SET


def test_from_training_to_recommendations(adar: Adar, data: str, tmp_path: Path) -> None:
    trained = adar("train", "--data", data, "--out", tmp_path / "run", "--workers", 0, "--json", *SET)
    result = trained.json()
    assert result["run"] == str(tmp_path / "run")
    assert result["epochs"] == 2
    assert trained.err.count("epoch ") == 2

    found = adar("evaluate", tmp_path / "run", "--k", "2,20", "--json").json()
    assert found["users"] == 3
    assert {"recall@2", "recall@20", "ndcg@20"} <= found["metrics"].keys()
    table = adar("evaluate", tmp_path / "run", "--k", "20,2")
    assert table.out.index("@2 ") < table.out.index("@20")
    assert "recall" in table.out

    (tmp_path / "users.txt").write_text("ann\n日本\n", encoding="utf-8")
    out = tmp_path / "top"
    users = ["--users", tmp_path / "users.txt"]
    assert adar("recommend", tmp_path / "run", "--out", out, "--k", 3, *users, "--json").json() == {
        "recommendations": str(out),
        "items per user": 3,
    }
    assert list(out.iterdir())
    vectors = tmp_path / "vectors"
    assert adar("export", tmp_path / "run", "--out", vectors, "--json").json() == {"vectors": str(vectors)}
    assert (vectors / "items.parquet").exists()

    (row,) = adar("report", tmp_path / "run", "--json").json()
    assert row["run"] == str(tmp_path / "run")
    assert row["sampler"] == "adar"
    assert row["test recall@20"] == 1  # there are only six items
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    rows = adar("report", tmp_path / "run", tmp_path / "copy", "--json").json()
    assert [row["run"] for row in rows] == [str(tmp_path / "run"), str(tmp_path / "copy")]
    assert adar("report", tmp_path / "run", tmp_path / "copy").out.count("adar") >= 2


def test_unknown_users(adar: Adar, run: str, tmp_path: Path) -> None:
    assert "ml-100k" in adar("data", "fetch", "ml-100").line()
    (tmp_path / "users.txt").write_text("ann\nnobody\n")
    top = ["--out", tmp_path / "top", "--users", tmp_path / "users.txt"]
    assert "has no user 'nobody'" in adar("recommend", run, *top).line()
    (tmp_path / "users.txt").write_text("\n")
    assert "has no user ids" in adar("recommend", run, *top).line()
    (tmp_path / "users.txt").unlink()
    assert "users.txt" in adar("recommend", run, *top).line()
    assert not (tmp_path / "top").exists()
