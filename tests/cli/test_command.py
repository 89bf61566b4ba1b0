"""What all commands share: help, wrong usage, errors and exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.calling import Adar

ROOT = Path(__file__).parents[2]


def test_help_and_version(adar: Adar) -> None:
    for words in ("--help", "train -h", "data --help", "job submit --help", "--version"):
        assert adar(*words.split()).status == 0


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["train", "--no-such-option"],
        ["train"],
        ["train", "--data", "somewhere"],
        ["train", "--out", "somewhere"],
        ["train", "--data", "a", "--out", "b", "--workers", "-1"],
        ["train", "--resume", "run", "--replace"],
        ["train", "--resume", "run", "--out", "other"],
        ["train", "--resume", "run", "--show-config"],
        ["train", "--data", "a", "--out", "b", "--trust"],
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
        ["recommend", "run", "--out", "top", "--user", "4"],
        ["recommend", "run", "--user", "4", "--users", "users.txt"],
        ["recommend", "run", "--user", "4", "--replace"],
        ["recommend", "run", "--users", "users.txt"],
        ["similar", "run"],
        ["similar", "run", "--item", "4", "--user", "4"],
        ["report"],
        ["tune"],
        ["tune", "--data", "data", "--space", "space.yaml"],
        ["tune", "--data", "data", "--space", "space.yaml", "--out", "search", "--trials", "0"],
        ["tune", "--resume", "search", "--concurrent", "3"],
        ["tune", "--data", "a", "--space", "b", "--out", "c", "--trust"],
        ["job", "submit"],
        ["job", "status"],
        ["job", "logs", "name", "-f", "--json"],
        ["job", "stop"],
        ["submit", "job.yaml"],
        ["publish", "run"],
        ["publish", "--to", "place"],
        ["publish", "run", "--rollback", "--to", "place"],
        ["publish", "--rollback", "--to", "place", "--force"],
        ["publish", "--create", "--to", "place", "--trust"],
        ["publish", "--rollback", "--to", "place", "--keep", "7"],
        ["publish", "--create", "--rollback", "--to", "place"],
        ["publish", "run", "--to", "place", "--keep", "1"],
        ["publish", "run", "--to", "place", "--max-age", "soon"],
        ["tune", "--data", "data", "--space", "space.yaml", "--out", "search", "--time", "soon"],
        ["published"],
        ["published", "place", "--listen", "127.0.0.1"],
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


def test_missing_addresses(adar: Adar, data: str, tmp_path: Path) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    assert "there is no such folder" in adar("train", "--data", nowhere, "--out", out).line()
    assert "there is no dataset.json" in adar("train", "--data", tmp_path, "--out", out).line()
    for words in (
        ["train", "--resume", nowhere],
        ["evaluate", nowhere],
        ["recommend", nowhere, "--out", out],
        ["recommend", nowhere, "--user", 4],
        ["similar", nowhere, "--item", 4],
        ["export", nowhere, "--out", out],
        ["report", nowhere],
        ["evaluate", data],
    ):
        assert "is not a run" in adar(*words).line()
    assert str(nowhere) in adar("prepare", nowhere, "--out", out).line()
    assert "no file system" in adar("prepare", "gopher://there/is", "--out", out).line()
    assert not list(tmp_path.iterdir())


def test_existing_folders_are_not_overwritten(adar: Adar, data: str, run: str, hand_made: Path) -> None:
    assert "--replace" in adar("prepare", hand_made, "--out", data).line()
    assert "finished run" in adar("train", "--data", data, "--out", run, "--workers", 0).line()


def test_debug_shows_where(adar: Adar, tmp_path: Path) -> None:
    ended = adar("evaluate", tmp_path, "--debug")
    assert ended.status == 1
    assert "Traceback" in ended.err
    assert ended.err.splitlines()[-1].startswith(f"adar-ray: {tmp_path}: is not a run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_is_not_lost(tmp_path: Path, number: int) -> None:
    """C code that imports a module, as pyarrow does with pandas, drops what is raised meanwhile."""
    (tmp_path / "hit.py").write_text(f"import signal\nsignal.raise_signal({int(number)})\n")
    code = """if True:
        import time
        from adar_ray.cli.main import take_signals
        take_signals()
        try:
            import hit
        except KeyboardInterrupt:
            print("lost")
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            print("interrupted")
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (process.stdout, process.stderr) == ("interrupted\n", "")


def test_a_shell_completes_commands_and_options() -> None:
    """By the line for bash in the documentation."""
    line = next(
        line for line in (ROOT / "docs" / "start.md").read_text().splitlines() if "bash_source" in line
    )
    script = f"""
        {line}
        complete_words() {{
            COMPREPLY=() COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
            _adar_ray_completion adar-ray && echo "${{COMPREPLY[*]}}"
        }}
        complete_words adar-ray tr
        complete_words adar-ray train --res
        complete_words adar-ray job st
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["train", "--resume", "status stop"]
