"""The command line as people and scripts meet it: what is printed where, and with which exit status."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from tests.calling import Adar, caller

SMALL = ["model.dim=8", "adar.pool=16", "train.batch_size=256", "train.epochs=2", "train.device=cpu"]
SET = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def adar(capfd: pytest.CaptureFixture[str]) -> Adar:
    """Runs a command in this process."""
    return caller(capfd)


@pytest.fixture(scope="module")
def data(ray_cluster: None, hand_made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("cli") / "data"
    prepare(hand_made, out)
    return str(out)


@pytest.fixture
def run(adar: Adar, data: str, tmp_path: Path) -> str:
    assert adar("train", "--data", data, "--out", tmp_path / "run", "--workers", 0, *SET).status == 0
    return str(tmp_path / "run")


# Results.


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
    }
    assert "note: 4 users have fewer than 3 interactions" in ended.err
    table = adar("prepare", hand_made, "--out", tmp_path / "table")
    assert table.status == 0
    assert "interactions" in table.out
    assert "13" in table.out
    assert "writing   13 interactions" in table.err


def test_synthetic(adar: Adar, ray_cluster: None, tmp_path: Path) -> None:
    sizes = ["--users", 20, "--items", 40, "--interactions", 200]
    counts = adar("data", "synthetic", *sizes, "--out", tmp_path / "data", "--json").json()
    assert (counts["users"], counts["items"], counts["interactions"]) == (20, 40, 200)
    assert Dataset.open(tmp_path / "data").n_users == 20


def test_data_list(adar: Adar) -> None:
    names = [row["name"] for row in adar("data", "list", "--json").json()]
    assert "ml-100k" in names
    assert all(name in adar("data", "list").out for name in names)


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
        "items a user": 3,
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


def test_show_config_loads_as_a_configuration(adar: Adar, tmp_path: Path) -> None:
    shown = adar("train", "--show-config", "--set", "adar.beta=0.7", "--set", "train.metric=recall@5")
    assert shown.status == 0
    (tmp_path / "config.yaml").write_text(shown.out)
    assert load_config(tmp_path / "config.yaml") == load_config(
        settings=["adar.beta=0.7", "train.metric=recall@5"]
    )
    again = adar("train", "--show-config", "--config", tmp_path / "config.yaml")
    assert again.out == shown.out


def test_resuming_a_finished_run_says_so(adar: Adar, run: str) -> None:
    ended = adar("train", "--resume", run, "--json")
    assert "is finished already" in ended.err
    assert ended.json()["epochs"] == 2


def test_help_and_version(adar: Adar) -> None:
    for words in (["--help"], ["train", "-h"], ["data", "--help"], ["--version"]):
        assert adar(*words).status == 0


# Wrong usage: status 2.


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["train", "--no-such-option"],
        ["train"],
        ["train", "--data", "somewhere"],
        ["train", "--out", "somewhere"],
        ["train", "--data", "a", "--out", "b", "--workers", "-1"],
        ["train", "--resume", "run", "--data", "data"],
        ["train", "--resume", "run", "--set", "train.epochs=3"],
        ["train", "--resume", "run", "--replace"],
        ["train", "--resume", "run", "--workers", "2"],
        ["prepare"],
        ["prepare", "source"],
        ["prepare", "source", "--out", "data", "--split", "fair"],
        ["prepare", "source", "--out", "data", "--test-fraction", "1"],
        ["evaluate"],
        ["evaluate", "run", "--k", "0"],
        ["evaluate", "run", "--k", "ten"],
        ["evaluate", "run", "--split", "all"],
        ["recommend", "run"],
        ["recommend", "run", "--out", "top", "--k", "0"],
        ["report"],
        ["tune"],
        ["tune", "--data", "data", "--space", "space.yaml"],
        ["tune", "--data", "data", "--space", "space.yaml", "--out", "search", "--trials", "0"],
        ["tune", "--resume", "search", "--trials", "3"],
        ["submit"],
        ["status"],
        ["logs", "name", "-f", "--json"],
        ["stop"],
        ["publish", "run"],
        ["data", "fetch"],
        ["data", "synthetic", "--users", "0", "--items", "9", "--interactions", "9", "--out", "data"],
    ],
    ids=" ".join,
)
def test_wrong_usage(adar: Adar, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = adar(*words)
    assert ended.status == 2
    assert ended.out == ""
    assert "Usage:" in ended.err
    assert "Error:" in ended.err
    assert not list(tmp_path.iterdir())


# Bad input: status 1 and one line.


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("adar.betta=1", ["--set adar.betta=1", "adar.beta?"]),
        ("train.lr=1", ["train.lr", "optimizer.lr?"]),
        ("trian.epochs=1", ["'trian'", "train?"]),
        ("adar.beta=2", ["adar.beta", "2"]),
        ("adar.K=many", ["adar.K", "many"]),
        ("train.metric=auc", ["train.metric 'auc'", "ndcg@K"]),
        ("train.metric=ndcg@0", ["train.metric", "ndcg@0"]),
        ("train.epochs", ["--set train.epochs", "section.key=value"]),
        ("epochs=3", ["--set epochs=3", "section.key=value"]),
        ("adar.beta=[", ["--set adar.beta=["]),
        ("model.name=transformer", ["model.name", "transformer"]),
    ],
)
def test_wrong_settings(adar: Adar, data: str, tmp_path: Path, setting: str, words: list[str]) -> None:
    line = adar("train", "--data", data, "--out", tmp_path / "run", "--set", setting).line()
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adar: {beta: 0.5\n", ["is not valid YAML"]),
        ("- adar\n", ["holds no sections"]),
        ("adar: 5\n", ["section adar holds no keys"]),
        ("adar:\n  bta: 0.5\n", ["adar.bta", "adar.beta?"]),
        ("loss:\n  temperature: cold\n", ["loss.temperature", "cold"]),
        ("optimizer:\n  name: sparse_adam\nmodel:\n  name: lightgcn\n", ["sparse_adam", "lightgcn"]),
    ],
)
def test_wrong_configuration_files(
    adar: Adar, data: str, tmp_path: Path, text: str, words: list[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    line = adar("train", "--data", data, "--out", tmp_path / "run", "--config", file).line()
    assert all(word in line for word in [str(file), *words]), line
    assert not (tmp_path / "run").exists()


def test_missing_configuration_file(adar: Adar, data: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for missing in (file, tmp_path):
        line = adar("train", "--data", data, "--out", tmp_path / "run", "--config", missing).line()
        assert f"{missing}: cannot be read" in line


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("parameters: {adar.bta: {uniform: [0, 1]}}\n", [], ["space.yaml", "adar.bta", "adar.beta?"]),
        ("parameters: {adar.beta: {uniform: [0.9, 0.5]}}\n", [], ["space.yaml", "adar.beta", "empty"]),
        ("parameters: {adar.beta: {uniform: [0.5, 2]}}\n", [], ["space.yaml", "adar.beta"]),
        ("parameters: {adar.M: {choice: [1, 2]}}\nmetric: auc\n", [], ["space.yaml", "auc", "ndcg@K"]),
        ("parameters: {adar.M: {choice: [1, 2]}}\n", ["--set", "adar.M=3"], ["--set adar.M=3", "searched"]),
        ("parameters: {adar.M: {choice: [1, 2]}}\n", ["--time", "soon"], ["'soon'", "30m"]),
    ],
)
def test_wrong_spaces(
    adar: Adar, data: str, tmp_path: Path, text: str, options: list[str], words: list[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    line = adar("tune", "--data", data, "--space", file, "--out", tmp_path / "search", *options).line()
    assert all(word in line for word in words), line
    assert not (tmp_path / "search").exists()


def test_addresses_where_nothing_is(adar: Adar, data: str, tmp_path: Path) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    assert "there is no such folder" in adar("train", "--data", nowhere, "--out", out).line()
    assert "there is no dataset.json" in adar("train", "--data", tmp_path, "--out", out).line()
    for words in (
        ["train", "--resume", nowhere],
        ["evaluate", nowhere],
        ["recommend", nowhere, "--out", out],
        ["export", nowhere, "--out", out],
        ["report", nowhere],
        ["evaluate", data],
    ):
        assert "is no run" in adar(*words).line()
    assert str(nowhere) in adar("prepare", nowhere, "--out", out).line()
    assert "no file system" in adar("prepare", "gopher://there/is", "--out", out).line()
    assert not list(tmp_path.iterdir())


def test_unknown_names(adar: Adar, run: str, tmp_path: Path) -> None:
    assert "ml-100k" in adar("data", "fetch", "ml-100").line()
    (tmp_path / "users.txt").write_text("ann\nnobody\n")
    top = ["--out", tmp_path / "top", "--users", tmp_path / "users.txt"]
    assert "knows no user 'nobody'" in adar("recommend", run, *top).line()
    (tmp_path / "users.txt").write_text("\n")
    assert "holds no user ids" in adar("recommend", run, *top).line()
    (tmp_path / "users.txt").unlink()
    assert "users.txt" in adar("recommend", run, *top).line()
    assert not (tmp_path / "top").exists()


def test_wrong_columns(adar: Adar, hand_made: Path, tmp_path: Path) -> None:
    for columns in ("user", "user=", "color=red", "user=nobody"):
        ended = adar("prepare", hand_made, "--out", tmp_path / "data", "--columns", columns)
        assert "--columns" in ended.line()
    assert not list(tmp_path.iterdir())


def test_an_error_inside_a_ray_task_is_one_line_too(adar: Adar, ray_cluster: None, tmp_path: Path) -> None:
    source = tmp_path / "bad.csv"
    source.write_text("user,item,timestamp\na,b,1\na,c,-1\n")
    assert f"{source}: line 3: " in adar("prepare", source, "--out", tmp_path / "data").line()


def test_what_exists_is_not_overwritten(adar: Adar, data: str, run: str, hand_made: Path) -> None:
    assert "--replace" in adar("prepare", hand_made, "--out", data).line()
    assert "finished run" in adar("train", "--data", data, "--out", run, "--workers", 0).line()


def test_a_full_disk(adar: Adar, dataset: Dataset, tiny_disk: Path) -> None:
    words = ["train", "--data", dataset.folder.address, "--out", tiny_disk / "run", "--workers", 0, *SET]
    ended = adar(*words, "--set", "model.dim=128")
    assert ended.status == 1
    assert ended.out == ""
    last = ended.err.splitlines()[-1]
    assert last.startswith("adar-ray: ")
    assert "disk is full" in last
    assert "Traceback" not in ended.err


def test_debug_shows_where(adar: Adar, tmp_path: Path) -> None:
    ended = adar("evaluate", tmp_path, "--debug")
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith(f"adar-ray: {tmp_path}: is no run")


# Ctrl-C, and what a scheduler sends.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_training_tells_how_to_go_on(
    adar: Adar, dataset: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    # Many small steps, so that an epoch takes a while.
    settings = [*SMALL, "train.epochs=5", "train.batch_size=16", "train.patience=99"]
    words = ["train", "--data", dataset.folder.address, "--out", run, "--workers", "0", "--json"]
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("adar-ray"),
            *words,
            *(word for setting in settings for word in ("--set", setting)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # As a shell starts a command in the background: deaf to the keyboard, but not to us.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "last.pt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"adar-ray: interrupted; go on after the last finished epoch with `adar-ray train --resume {run}`"
    )
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    finished = checkpoint["state"]["epoch"]
    assert 1 <= finished < 5
    resumed = adar("train", "--resume", run, "--json")
    assert resumed.json()["epochs"] == 5
    assert resumed.err.count("epoch ") == 5 - finished
