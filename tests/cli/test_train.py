"""`train`: configurations, resuming, interruptions."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.training.run import Run
from tests.calling import Adar
from tests.cli.conftest import SET, SMALL
from tests.training.checkpoints import last_epoch


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
    assert "is already finished" in ended.err
    assert ended.json()["epochs"] == 2


def test_an_epoch_of_a_single_step_is_noted(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    words = ["train", "--data", dataset.folder.address, "--workers", 0, *SET, "--set", "train.epochs=1"]
    rows = dataset.rows("train")
    for batch_size, has_note in ((rows, True), (rows - 1, False)):
        out = tmp_path / str(batch_size)
        ended = adar(*words, "--out", out, "--set", f"train.batch_size={batch_size}", "--json")
        assert ended.json()["epochs"] == 1
        notes = [line for line in ended.err.splitlines() if line.startswith("note: ")]
        assert bool(notes) == has_note
        for note in notes:
            assert f"train.batch_size {batch_size} takes all {rows:,} training rows" in note


def test_settings_of_components_that_are_not_in_use_are_noted_once(
    adar: Adar, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["train", "--data", dataset.folder.address, "--out", tmp_path / "run", "--workers", 0, *SET]
    ended = adar(*words, "--set", "dns.candidates=4", "--json")
    assert ended.json()["epochs"] == 2
    notes = [line for line in (*ended.err.splitlines(), *caplog.messages) if line.startswith("note: ")]
    assert notes == ["note: dns.candidates has no effect here: the component is not in use"]


def test_a_warm_start_tells_what_it_keeps(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    words = ["train", "--data", dataset.folder.address, "--workers", 0, *SET, "--set", "train.epochs=1"]
    cold = adar(*words, "--out", tmp_path / "first")
    assert "kept" not in cold.err
    ended = adar(*words, "--out", tmp_path / "warm", "--init-from", tmp_path / "first", "--json")
    assert ended.json()["epochs"] == 1
    kept = f"note: kept the vectors of 300 of 300 users and 400 of 400 items from {tmp_path / 'first'}"
    assert kept in ended.err.splitlines()
    nowhere = adar(*words, "--out", tmp_path / "none", "--init-from", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}: is not a run folder" in nowhere.line()
    assert not (tmp_path / "none").exists()


def test_popularity_stands_beside_a_model_and_warns_if_it_is_better(
    adar: Adar, dataset: Dataset, tmp_path: Path
) -> None:
    words = ["train", "--data", dataset.folder.address, "--out", tmp_path / "run", "--workers", 0, *SET]
    trained = adar(*words, "--set", "model.name=mf", "--set", "optimizer.lr=1e-9", "--json")  # learns nothing
    reported = adar("report", tmp_path / "run", "--json")
    assert reported.json() == [trained.json()]
    row = trained.json()
    assert row["valid ndcg@20 of popularity"] > row["valid ndcg@20"]
    for ended in (trained, reported):
        (warning,) = (line for line in ended.err.splitlines() if line.startswith("warning: "))
        assert f"{tmp_path / 'run'}: popularity alone is better on validation" in warning


def test_a_sequential_model_is_noted_by_its_own_rows(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    settings = ["model.name=gru4rec", "train.epochs=1", "model.embedding_dim=8", "train.batch_size=2048"]
    words = [word for setting in settings for word in ("--set", setting)]
    ended = adar("train", "--data", dataset.folder.address, "--out", tmp_path / "run", "--workers", 0, *words)
    assert f"takes all {dataset.sequences.rows:,} training rows" in ended.err


def test_resumes_after_a_loss_that_is_no_number(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    run, data = tmp_path / "run", shutil.copytree(dataset.folder.path, tmp_path / "data")
    words = ["train", "--data", data, "--out", run, "--workers", 0, *SET]
    ended = adar(*words, "--set", "optimizer.lr=1e30", "--set", "loss.name=bpr")
    assert ended.status == 1
    assert "lower optimizer.lr" in ended.err.splitlines()[-1]
    data.rename(tmp_path / "moved")
    again = ["train", "--resume", run]
    assert "say with --data" in adar(*again).err.splitlines()[-1]
    changes = ["--data", tmp_path / "moved", "--set", "optimizer.lr=0.001", "--set", "train.epochs=3"]
    assert "cannot change" in adar(*again, *changes, "--set", "model.name=mf").line()
    assert "--set optimiser.lr=1" in adar(*again, "--set", "optimiser.lr=1").line()
    resumed = adar(*again, *changes, "--json")
    assert resumed.json()["epochs"] == 3
    assert "\n  3/3  " in resumed.err
    assert "is finished" in adar(*again, "--set", "optimizer.lr=0.1").line()
    refused = adar(*again, "--out", tmp_path / "other")
    assert refused.status == 2
    assert "everything but --data, --set, --workers, --trust from the run" in refused.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("adar.betta=1", ["--set adar.betta=1", "adar.beta?"]),
        ("train.lr=1", ["train.lr", "optimizer.lr?"]),
        ("trian.epochs=1", ["'trian'", "train?"]),
        ("adar.beta=2", ["adar.beta", "2"]),
        ("adar.negatives=many", ["adar.negatives", "many"]),
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
        ("- adar\n", ["has no sections"]),
        ("adar: 5\n", ["section adar has no keys"]),
        ("adar:\n  bta: 0.5\n", ["adar.bta", "adar.beta?"]),
        ("sampled_softmax:\n  temperature: cold\n", ["sampled_softmax.temperature", "cold"]),
        ("optimizer:\n  name: sparse_adam\n", ["optimizer.name"]),
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


def test_a_full_disk(adar: Adar, dataset: Dataset, tiny_disk: Path) -> None:
    words = ["train", "--data", dataset.folder.address, "--out", tiny_disk / "run", "--workers", 0, *SET]
    ended = adar(*words, "--set", "model.embedding_dim=128")
    assert ended.status == 1
    assert ended.out == ""
    last = ended.err.splitlines()[-1]
    assert last.startswith("adar-ray: ")
    assert "disk is full" in last
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_training_tells_how_to_continue(
    adar: Adar, dataset: Dataset, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    # Many small steps, so that an epoch takes a while.
    settings = [*SMALL, "train.epochs=5", "train.batch_size=16", "train.patience=99"]
    words = ["train", "--data", dataset.folder.address, "--out", run, "--workers", "0", "--json"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "adar_ray.cli.main"),
            *words,
            *(word for setting in settings for word in ("--set", setting)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # A shell makes a command in the background ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        deadline = time.monotonic() + 120
        while not last_epoch(run):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert out == ""
    assert "Traceback" not in err
    told = re.fullmatch(
        r"adar-ray: (interrupted|\S+: terminated; saved at epoch (\d), step (\d+))"
        rf"; continue with `adar-ray train --resume {run}`",
        err.splitlines()[-1],
    )
    assert told is not None, err
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    place = None if number == signal.SIGINT else (int(told[2]) - 1, int(told[3]))
    assert told[1] == "interrupted" or Run.open(run).newest_checkpoint().place == place
    finished = last_epoch(run)
    assert 1 <= finished < 5
    resumed = adar("train", "--resume", run, "--json")
    assert resumed.json()["epochs"] == 5
    assert len(re.findall(r"^ *\d/5 ", resumed.err, re.MULTILINE)) == 5 - finished


class OnWorkers:
    """`adar-ray train` on workers of its own Ray, without an end, and its processes."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        self.run, self.mark = folder / "run", str(folder)
        words = ["train", "--data", dataset.folder.address, "--out", self.run, "--workers", "2"]
        settings = [*SMALL, "train.epochs=50000", "train.patience=99999"]
        self.command = subprocess.Popen(
            [
                *(sys.executable, "-m", "adar_ray.cli.main"),
                *words,
                *(word for setting in settings for word in ("--set", setting)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MARK": self.mark},
            start_new_session=True,
        )

    def processes(self, name: str = "") -> list[Any]:
        """Those that are left, whose name or command has this in it."""
        import psutil  # found once Ray, which brings it, is imported

        found = []
        for other in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if other.environ().get("MARK") == self.mark and name in other.name() + "".join(
                    other.cmdline()
                ):
                    found.append(other)
        return found

    def wait_until(self, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not reached():
            assert self.command.poll() is None, self.command.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def wait_until_it_trains(self) -> None:
        self.wait_until((self.run / "metrics.jsonl").exists)

    def ends(self, within: float) -> tuple[int, str]:
        """Its status and its last message, once it and all its processes have ended."""
        began = time.monotonic()
        _, err = self.command.communicate(timeout=60)
        assert time.monotonic() - began < within
        time.sleep(1)
        assert not self.processes()
        return self.command.returncode, err.splitlines()[-1]


@pytest.fixture
def on_workers(ray_cluster: None, dataset: Dataset, tmp_path: Path) -> Iterator[OnWorkers]:
    started = OnWorkers(dataset, tmp_path)
    yield started
    for left in started.processes():
        left.kill()


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.parametrize("stage", ["starting", "placing", "training"])
def test_one_ctrl_c_ends_workers_soon_and_leaves_no_process(on_workers: OnWorkers, stage: str) -> None:
    if stage == "training":
        on_workers.wait_until_it_trains()
    else:
        wanted = "raylet" if stage == "starting" else "TrainController"
        on_workers.wait_until(lambda: on_workers.processes(wanted))
    os.killpg(on_workers.command.pid, signal.SIGINT)  # as a terminal does
    status, told = on_workers.ends(within=20)  # Ray's own way takes half a minute
    assert status == 130
    assert told.startswith("adar-ray: interrupted; continue with ")


@pytest.mark.slow
@pytest.mark.stress
def test_training_ends_with_a_line_when_its_ray_dies(on_workers: OnWorkers) -> None:
    on_workers.wait_until_it_trains()
    for head in on_workers.processes("gcs_server"):
        head.kill()
    status, told = on_workers.ends(within=40)  # Ray's own way takes a minute
    assert (status, told) == (1, "adar-ray: Ray on this machine has died; start it again, and resume")
