"""`evaluate`, `recommend`, `export`, `report` and `publish`."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.calling import Adar
from tests.cli.conftest import SET


def test_from_training_to_recommendations(adar: Adar, data: str, tmp_path: Path) -> None:
    words = ["train", "--data", data, "--out", tmp_path / "run", "--workers", 0, "--json", *SET]
    trained = adar(*words, "--set", "model.name=mf")  # which is no worse than popularity here
    result = trained.json()
    assert result["run"] == str(tmp_path / "run")
    assert result["epochs"] == 2
    assert [line.split()[0] for line in trained.err.splitlines()[-3:]] == ["epoch", "1/2", "2/2"]

    found = adar("evaluate", tmp_path / "run", "--k", "2,20", "--json").json()
    assert found["users"] == 3
    assert {"recall@2", "recall@20", "ndcg@20"} <= found["metrics"].keys()
    table = adar("evaluate", tmp_path / "run", "--k", "20,2")
    assert "by an item's users in training" in table.out
    ndcg = found["metrics"]["ndcg@20"], found["popularity"]["ndcg@20"]
    assert "test: the model reaches {:.4f} in ndcg@20, and popularity {:.4f}, ".format(*ndcg) in table.err
    assert max(map(len, table.out.splitlines())) <= 80
    assert table.out.index("@2 ") < table.out.index("@20")
    assert "recall" in table.out

    (tmp_path / "users.txt").write_text("ann\n日本\n", encoding="utf-8")
    out = tmp_path / "top"
    users = ["--users", tmp_path / "users.txt"]
    assert adar("recommend", tmp_path / "run", "--out", out, "--k", 3, *users, "--json").json() == {
        "recommendations": str(out),
        "items per user": 3,
        "users": 2,
        "unknown users": 0,
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

    page = tmp_path / "pages" / "both.html"
    both = adar("report", tmp_path / "run", tmp_path / "copy", "--html", page)
    assert both.err == f"the page is {page}\n"
    assert "<h1>2 runs</h1>" in page.read_text(encoding="utf-8")
    refused = adar("report", tmp_path / "run", "--html", tmp_path / "copy")
    assert refused.status == 2
    assert f"'{tmp_path}/copy' does not end with .html" in refused.err


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfann\r\n\xe6\x97\xa5\xe6\x9c\xac\r\n",
        "  ann \n\n \t\n日本\t".encode(),
        gzip.compress("ann\n日本\n".encode()),
    ],
    ids=["as Windows saves it", "with spaces", "gzip"],
)
def test_a_file_of_users_is_read_as_sources_are(adar: Adar, run: str, tmp_path: Path, content: bytes) -> None:
    users = tmp_path / ("users.txt.gz" if content.startswith(b"\x1f\x8b") else "users.txt")
    users.write_bytes(content)
    ended = adar("recommend", run, "--out", tmp_path / "top", "--users", users, "--k", 1, "--json")
    assert (ended.json()["users"], ended.json()["unknown users"]) == (2, 0)
    assert pq.read_table(tmp_path / "top")["user"].to_pylist() == ["ann", "日本"]


def test_repeated_and_unknown_users(adar: Adar, run: str, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    top = ["--out", tmp_path / "top", "--users", users, "--k", 1]
    users.write_text("ann\nnobody\nann\n")
    ended = adar("recommend", run, *top, "--json")
    assert (ended.json()["users"], ended.json()["unknown users"]) == (1, 1)
    assert f"note: {users}: repeated ids: 1; " in ended.err
    assert f"note: {users}: ids that the model does not know: 1; " in ended.err
    assert str(tmp_path / "top" / "_unknown_users.txt") in ended.err
    assert (tmp_path / "top" / "_unknown_users.txt").read_text() == "nobody\n"


def test_files_of_users_that_are_refused(adar: Adar, run: str, tmp_path: Path) -> None:
    assert "ml-100k" in adar("data", "fetch", "ml-100").line()
    users = tmp_path / "users.txt"
    top = ["--out", tmp_path / "top", "--users", users]
    users.write_text("nobody\n")
    assert "lists none of the given users, such as 'nobody'" in adar("recommend", run, *top).line()
    users.write_text("\n")
    assert f"{users}: the file is empty" in adar("recommend", run, *top).line()
    users.write_bytes(b"ann\n\xc4rger\n")
    line = adar("recommend", run, *top).line()
    assert f"{users}: line 2: " in line
    assert "UTF-8" in line
    users.unlink()
    assert f"{users}: no such file" in adar("recommend", run, *top).line()
    assert adar("recommend", run, "--out", tmp_path / "top", "--users", tmp_path).status == 1
    assert not (tmp_path / "top").exists()


def test_use_after_the_dataset_is_gone(adar: Adar, data: str, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    train = ["train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--workers", 0, *SET]
    assert adar(*train).status == 0
    shutil.move(tmp_path / "data", tmp_path / "moved")
    run = tmp_path / "run"
    found = adar("evaluate", run, "--json").json()
    assert adar("evaluate", run, "--data", tmp_path / "moved", "--json").json() == found
    assert adar("recommend", run, "--out", tmp_path / "top", "--json").json()["users"] == 5
    assert adar("export", run, "--out", tmp_path / "vectors").status == 0
    assert adar("report", run).status == 0
    assert adar("publish", run, "--to", tmp_path / "place").status == 0
    (run / "result.json").unlink()
    shutil.rmtree(run / "model")
    for command in (
        ["evaluate", run],
        ["recommend", run, "--out", tmp_path / "x"],
        ["export", run, "--out", tmp_path / "x"],
    ):
        line = adar(*command).line()
        assert f"{run}: its dataset is no longer at {tmp_path / 'data'}; say with --data" in line
        assert adar(*command, "--data", tmp_path / "moved").status == 0
        shutil.rmtree(tmp_path / "x", ignore_errors=True)


DAMAGE = {
    "a bit": lambda data: bytes([*data[:99], data[99] ^ 1, *data[100:]]),
    "the end": lambda data: data[: len(data) // 2],
    "everything": lambda data: b"",
    "a folder in its place": None,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_whoever_reads_a_damaged_file_names_it(adar: Adar, run: str, tmp_path: Path, kind: str) -> None:
    folder, out = Path(run), tmp_path / "out"
    model = [["evaluate", run], ["recommend", run, "--out", out], ["export", run, "--out", out]]
    assert adar(*model[0]).status == 0
    uses = [["report", run], ["publish", run, "--to", out], ["train", "--resume", run]]
    readers = {
        "config.yaml": uses,
        "metrics.jsonl": [["report", run]],
        "result.json": uses,
        "evaluation/test.json": [["report", run]],
        "evaluation/test.parquet": [],  # a page about several runs, in reporting/test_run_report.py
        **{f"model/{name}": model for name in ("model.json", "weights.safetensors", "dataset.json")},
        **{f"model/{split}/00000.parquet": model[1:2] for split in ("train", "valid", "test")},
        **{f"model/{name}.parquet": model for name in ("users", "items")},
    }
    for name, commands in readers.items():
        path, damage = folder / name, DAMAGE[kind]
        good = path.read_bytes()
        if damage is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(damage(good))
        for command in commands:
            line = adar(*command).line()
            assert f"{run}/{name}: " in line
            assert line.endswith("restore the model, or train again") == name.startswith("model/")
            assert not out.exists()
        if damage is None:
            path.rmdir()
        path.write_bytes(good)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    rest = {name.partition("/")[0] for name in files - readers.keys()}
    assert rest == {"checkpoints", "tensorboard"}  # the first has others, the second is for people
