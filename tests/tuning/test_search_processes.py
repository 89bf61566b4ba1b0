"""Searches as processes of their own: killed, robbed of a trial's process, and resumed by two at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adar_ray.data.dataset import Dataset
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import tune

pytestmark = [pytest.mark.slow, pytest.mark.stress]

COMMAND = (sys.executable, "-m", "adar_ray.cli.main", "tune")
SPACE = {
    "base": {
        "model": {"embedding_dim": 8},
        "loss": {"name": "bpr"},
        "adar": {"pool": 16, "candidates": 2, "negatives": 2},
        "train": {"epochs": 20, "patience": 20, "batch_size": 512, "device": "cpu"},
    },
    "parameters": {
        "optimizer.lr": {"choice": [0.001, 0.01, 1e30]},  # the last one fails
        "adar.beta": {"uniform": [0.5, 0.95]},
    },
    "search": {"algorithm": "tpe", "seed": 2},
    "scheduler": {"name": "none"},
    "budget": {"trials": 4},
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("space") / "space.yaml"
    file.write_text(yaml.safe_dump(SPACE))
    return file


def start(*words: object) -> subprocess.Popen[str]:
    """A driver, which is in a session of its own with all that it starts."""
    command = [*COMMAND, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def begin(dataset: Dataset, file: Path, out: Path) -> subprocess.Popen[str]:
    return start(
        *("--data", dataset.folder.path, "--space", file, "--out", out, "--concurrent", 1, "--seeds", 0)
    )


def processes_of_trials(driver: subprocess.Popen[str]) -> list[int]:
    """The processes in which trials train."""
    here = (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())
    own = (folder for folder in here if os.getsid(int(folder.name)) == driver.pid)
    return [int(folder.name) for folder in own if b"ray::ImplicitFunc" in (folder / "cmdline").read_bytes()]


def when(condition: Callable[[], bool], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def summary(out: Path) -> list[dict[str, Any]]:
    """What is known of all trials, without times and without where they are."""
    found = []
    for trial in Search.open(out).read_trials():
        error = trial.error and trial.error.replace(str(out), "")
        found.append(trial.model_dump(exclude={"started", "seconds"}) | {"error": error})
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_survives_what_happens_to_its_processes(
    dataset: Dataset, file: Path, tmp_path: Path
) -> None:
    """A trial's process dies as if killed for memory. Then the driver dies, while one trial has failed, one
    has finished, one runs and others wait. Then two processes resume the search."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "search"
    tune(dataset, file, undisturbed, concurrent=1, seeds=0)
    wanted = summary(undisturbed)
    assert {trial["status"] for trial in wanted} == {"finished", "failed"}
    assert wanted[0]["status"] == "finished"

    driver = begin(dataset, file, out)
    when(lambda: (out / "trials" / "00000" / "metrics.jsonl").exists(), driver)
    for process in processes_of_trials(driver):
        os.kill(process, signal.SIGKILL)
    first_failed = next(trial["number"] for trial in wanted if trial["status"] == "failed")
    running = next(
        trial["number"]
        for trial in wanted
        if trial["number"] > first_failed and trial["status"] == "finished"
    )
    when(lambda: (out / "trials" / f"{running:05d}" / "metrics.jsonl").exists(), driver)
    driver.kill()
    left = [trial["status"] for trial in summary(out)]
    assert left[-1] == "running"
    assert {"finished", "failed"} <= set(left)
    assert len(left) < len(wanted)

    both = [start("--resume", out) for _ in range(2)]
    said = [resuming.communicate()[1] for resuming in both]
    assert sorted(resuming.returncode for resuming in both) == [0, 1], said
    refused = next(text for resuming, text in zip(both, said, strict=True) if resuming.returncode)
    winner = next(resuming.pid for resuming in both if not resuming.returncode)
    assert f"{out}: in use by process {winner}" in refused.splitlines()[-1]
    assert len(refused.splitlines()) == 1
    assert summary(out) == wanted
    assert sorted(path.name for path in (out / "trials").iterdir()) == [f"{n:05d}" for n in range(4)]
    assert (out / "best.yaml").read_text() == (undisturbed / "best.yaml").read_text()
