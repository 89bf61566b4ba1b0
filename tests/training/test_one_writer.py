"""Two processes that write one run at once: one goes on, the other is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adar_ray import train
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.training.run import Run

pytestmark = pytest.mark.slow

SETTINGS = [
    "train.epochs=40",
    "train.patience=40",
    "model.embedding_dim=8",
    "adar.pool=16",
    "train.device=cpu",
]

# Both have imported everything before they begin.
WAIT = """
import sys, time
from adar_ray.cli.main import cli
import adar_ray.training.trainer

print(flush=True)
sys.stdin.readline()
cli(sys.argv[1:])
"""


def at_once(*commands: list[str]) -> list[tuple[int, str]]:
    """Exit statuses and what was said on stderr, of commands that start in the same moment."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WAIT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def figures(run: Run) -> list[dict[str, Any]]:
    """The epochs, without times."""
    return [epoch.model_dump(exclude={"time"}) for epoch in run.epochs()]


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(dataset, out, load_config(settings=SETTINGS), workers=0)


def stopped(dataset: Dataset, out: Path) -> None:
    """A run that was interrupted in its third epoch."""

    def stop(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, out, load_config(settings=SETTINGS), workers=0, on_epoch=stop)


def check(out: Path, ended: list[tuple[int, str]], undisturbed: Run) -> None:
    assert sorted(status for status, _ in ended) == [0, 1], ended
    refusal = next(text for status, text in ended if status)
    assert str(out) in refusal
    assert len([line for line in refusal.splitlines() if line.startswith("adar-ray: ")]) == 1
    assert "Traceback" not in refusal
    run = Run.open(out)
    assert figures(run) == figures(undisturbed)
    assert run.result().best_epoch == undisturbed.result().best_epoch
    model = Path("model", "weights.safetensors")
    assert (out / model).read_bytes() == Path(undisturbed.folder.path, model).read_bytes()


def test_two_trainings_in_one_folder(dataset: Dataset, undisturbed: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", dataset.folder.path, "--out", str(out), "--workers", "0"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    check(out, at_once(words, words), undisturbed)


def test_two_resumptions_of_one_run(dataset: Dataset, undisturbed: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopped(dataset, out)
    words = ["train", "--resume", str(out)]
    check(out, at_once(words, words), undisturbed)


def test_a_training_that_replaces_what_another_resumes(
    dataset: Dataset, undisturbed: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stopped(dataset, out)
    anew = ["train", "--data", dataset.folder.path, "--out", str(out), "--workers", "0", "--replace"]
    anew += [word for setting in SETTINGS for word in ("--set", setting)]
    check(out, at_once(["train", "--resume", str(out)], anew), undisturbed)
