"""Searches: trials on Ray, how they end, that they resume, and what is left behind."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.run import Run
from adar_ray.training.trainer import train
from adar_ray.tuning.folder import Search
from adar_ray.tuning.progress import Progress
from adar_ray.tuning.search import _catch_up, resume_search, tune
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import Trial
from tests import sealed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

BASE = {
    "model": {"name": "mf", "embedding_dim": 8},
    "loss": {"name": "bpr"},
    "adar": {"pool": 16, "candidates": 2, "negatives": 2},
    "train": {"epochs": 4, "batch_size": 512, "device": "cpu"},
}
LR = {"optimizer.lr": {"choice": [0.001, 0.003, 0.01, 0.03]}}


def space(parameters: dict[str, Any] = LR, **sections: Any) -> Space:
    content = {"base": BASE, "parameters": parameters, "scheduler": {"name": "none"}} | sections
    return Space.from_mapping(content, "test")


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the times."""
    found = sealed.read_lines(folder / "metrics.jsonl")
    for line in found:
        del line["time"]
    return found


def trials_of(folder: Folder) -> list[Trial]:
    return Search.open(folder.address).read_trials()


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def surroundings() -> dict[str, Any]:
    """What a search must leave alone in the process that calls it."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    loggers = ("", "ray", "ray.data", "ray.train", "ray.tune")
    # torch sets its own cache folder the first time that it looks for it.
    environment = {f"${name}": value for name, value in os.environ.items() if "INDUCTOR" not in name}
    return environment | {
        "signals": [signal.getsignal(number) for number in signals],
        "log levels": [logging.getLogger(name).level for name in loggers],
        "optuna's verbosity": optuna.logging.get_verbosity(),
        "sys.path": list(sys.path),
        "random": random.getstate(),
    }


@pytest.fixture(scope="module")
def finished(
    ray_cluster: None, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Folder, list[str]]:
    """All four learning rates, to the end, and the winner with two seeds; and what else that has changed."""
    out = tmp_path_factory.mktemp("tuning") / "search"
    before = surroundings()
    search = tune(dataset, space(search={"algorithm": "grid"}), out, concurrent=2, seeds=2)
    after = surroundings()
    return search, [name for name in before | after if before.get(name) != after.get(name)]


@pytest.fixture
def grid(finished: tuple[Folder, list[str]]) -> Folder:
    return finished[0]


def test_a_search_leaves_the_calling_process_alone(finished: tuple[Folder, list[str]]) -> None:
    assert finished[1] == []


def test_a_trial_is_what_train_makes_of_its_configuration(
    dataset: Dataset, grid: Folder, tmp_path: Path
) -> None:
    trials = trials_of(grid)
    assert [trial.values["optimizer.lr"] for trial in trials] == LR["optimizer.lr"]["choice"]
    for trial in trials:
        config = load_config(values=BASE, settings=[f"optimizer.lr={trial.values['optimizer.lr']}"])
        alone = train(dataset, tmp_path / trial.name, config, workers=0)
        assert lines(Path(grid.path, "trials", trial.name)) == lines(Path(alone.folder.path))
        assert trial.status == "finished"
        assert trial.curve == [epoch.valid["ndcg@20"] for epoch in alone.epochs()]
        assert trial.value == max(trial.curve)
        assert trial.best_epoch == trial.curve.index(trial.value) + 1


def test_what_a_killed_trial_had_saved_is_known_again(grid: Folder) -> None:
    search = Search.open(grid.address)
    for trial in search.read_trials():
        killed = Trial(number=trial.number, values=trial.values, started=3.0)
        _catch_up(search, killed)
        assert (killed.value, killed.best_epoch) == (trial.value, trial.best_epoch)
        assert killed.epochs == trial.epochs
        assert 3 < killed.end < 3 + trial.seconds


def test_best_yaml_is_a_configuration_of_the_best_trial(grid: Folder) -> None:
    best = max(trials_of(grid), key=lambda trial: trial.value)
    config = load_config(Path(grid.path, "best.yaml"))
    assert config == load_config(values=BASE, settings=[f"optimizer.lr={best.values['optimizer.lr']}"])


def test_the_table_has_a_row_a_trial(grid: Folder) -> None:
    rows = grid.read_table("trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == ["00000", "00001", "00002", "00003"]
    for row, trial in zip(rows, trials_of(grid), strict=True):
        assert row["optimizer.lr"] == trial.values["optimizer.lr"]
        assert (row["status"], row["epochs"], row["error"]) == ("finished", 4, None)
        assert row["value"] == trial.value


def test_only_the_winner_is_tested_once_a_seed(grid: Folder) -> None:
    winner = Path(grid.path, "winner")
    tested = sorted(path.parent.parent.name for path in Path(grid.path).rglob("evaluation/test.json"))
    assert tested == ["seed-0", "seed-1"]
    result = json.loads((winner / "result.json").read_text())
    figures = [
        json.loads((winner / f"seed-{seed}" / "evaluation" / "test.json").read_text())["metrics"]["ndcg@20"]
        for seed in (0, 1)
    ]
    assert result["test"]["ndcg@20"]["mean"] == pytest.approx(sum(figures) / 2)
    assert result["test"]["ndcg@20"]["deviation"] == pytest.approx(abs(figures[0] - figures[1]) / 2**0.5)
    assert "The winner on test" in Path(grid.path, "report.html").read_text(encoding="utf-8")
    best = max(trials_of(grid), key=lambda trial: trial.value)
    assert Run.open(winner / "seed-0").result().valid["ndcg@20"] == best.value


def test_nothing_of_ray_and_no_weights_of_ended_trials_are_left(grid: Folder) -> None:
    left = {path.name for path in Path(grid.path).iterdir()}
    assert left == {"search.yaml", "best.yaml", "trials.parquet", "report.html", "trials", "winner"}
    assert not list(Path(grid.path, "trials").rglob("*.pt"))


def test_a_finished_search_resumes_to_itself(grid: Folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(grid.path, "trials").rglob("*")}
    winner = Path(grid.path, "winner", "result.json").stat().st_mtime_ns
    resume_search(grid.address)
    assert {path: path.stat().st_mtime_ns for path in Path(grid.path, "trials").rglob("*")} == before
    assert Path(grid.path, "winner", "result.json").stat().st_mtime_ns == winner


def test_an_interrupted_search_goes_on_where_it_was(dataset: Dataset, grid: Folder, tmp_path: Path) -> None:
    """Ctrl-C in the second trial; in the end every trial is as in a search that nothing interrupted."""

    def interrupt(progress: Progress) -> None:
        if len(progress.trials) == 2 and progress.trials[1].epochs == 2:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "search"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tune(
            dataset,
            space(search={"algorithm": "grid"}),
            out,
            concurrent=1,
            seeds=0,
            on_progress=interrupt,
        )
    assert signal.getsignal(signal.SIGINT) is handler
    first, second = trials_of(Folder.at(out))
    assert (first.status, second.status) == ("finished", "interrupted")
    assert Folder.at(out).read_table("trials.parquet")["status"].to_pylist() == ["finished", "interrupted"]
    finished = Path(out, "trials", "00000", "metrics.jsonl").stat().st_mtime_ns
    begun = len(lines(Path(out, "trials", "00001")))
    assert 2 <= begun < 4
    seen: list[int] = []
    resume_search(out, on_progress=lambda p: seen.append(p.trials[1].epochs))
    assert min(seen) >= begun  # from its checkpoint, not from the start
    assert Path(out, "trials", "00000", "metrics.jsonl").stat().st_mtime_ns == finished
    for number in range(4):
        trial = Path("trials", f"{number:05d}")
        assert lines(out / trial) == lines(Path(grid.path) / trial)
    assert [trial.value for trial in trials_of(Folder.at(out))] == [t.value for t in trials_of(grid)]


def test_a_search_has_one_writer(dataset: Dataset, tmp_path: Path) -> None:
    """A second one is refused; one that has lost the folder ends, and marks no trial of the other's."""
    out = tmp_path / "search"

    def contest(progress: Progress) -> None:
        if len(progress.trials) < 2:
            return
        assert f"in use by process {os.getpid()}" in message_of(lambda: resume_search(out))
        lease = sealed.read(out / "lease.json")
        sealed.write(out / "lease.json", {**lease, "id": "another", "pid": 1, "host": "far"})

    search = space(search={"algorithm": "grid"})
    message = message_of(
        lambda: tune(dataset, search, out, concurrent=1, seeds=0, retries=0, on_progress=contest)
    )
    assert f"{out}: process 1 on far" in message
    assert "has taken it over" in message
    assert [trial.status for trial in trials_of(Folder.at(out))] == ["finished", "running"]


def test_what_a_search_replaces_stays_until_it_is_finished(
    dataset: Dataset, grid: Folder, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(grid.path, tmp_path / "search"))
    before = (out / "search.yaml").read_text()
    rates = {"optimizer.lr": {"choice": [1e30]}}
    hopeless = space(rates, search={"algorithm": "grid"})
    message_of(lambda: tune(dataset, hopeless, out, retries=0, seeds=0, replace=True))
    assert (out / "search.yaml").read_text() == before
    assert "replaced" not in os.listdir(out)

    def look(progress: Progress) -> None:
        assert (out / "replaced" / "search.yaml").read_text() == before

    rates = {"optimizer.lr": {"choice": [0.01]}}
    small = space(rates, search={"algorithm": "grid"})
    tune(dataset, small, out, seeds=0, replace=True, on_progress=look)
    assert len(trials_of(Folder.at(out))) == 1
    assert "replaced" not in os.listdir(out)


def test_a_trial_that_fails_is_tried_again_and_recorded_and_the_search_goes_on(
    dataset: Dataset, tmp_path: Path
) -> None:
    rates = {"optimizer.lr": {"choice": [1e30, 0.01]}}
    out = tune(
        dataset,
        space(rates, search={"algorithm": "grid"}),
        tmp_path / "search",
        concurrent=1,
        retries=1,
        seeds=0,
    )
    failed, finished = trials_of(out)
    assert (failed.status, finished.status) == ("failed", "finished")
    assert "the loss is" in failed.error
    assert "\n" not in failed.error
    assert yaml.safe_load(Path(out.path, "best.yaml").read_text())["optimizer"]["lr"] == 0.01


def test_poor_trials_are_stopped_early(dataset: Dataset, tmp_path: Path) -> None:
    rates = {"optimizer.lr": {"choice": [0.03, 1e-7, 2e-7, 3e-7]}}
    out = tune(
        dataset,
        space(
            rates,
            search={"algorithm": "grid"},
            scheduler={"name": "asha", "grace": 1, "reduction": 2},
        ),
        tmp_path / "search",
        concurrent=1,
        seeds=0,
    )
    good, *poor = trials_of(out)
    assert (good.status, good.epochs) == ("finished", 4)
    assert {trial.status for trial in poor} == {"stopped"}
    assert max(trial.epochs for trial in poor) < 4


def test_the_median_stops_trials_below_it(dataset: Dataset, tmp_path: Path) -> None:
    rates = {"optimizer.lr": {"choice": [0.03, 0.02, 0.01, 1e-7]}}
    median = space(rates, search={"algorithm": "grid"}, scheduler={"name": "median", "grace": 1})
    *good, poor = trials_of(tune(dataset, median, tmp_path / "search", concurrent=1, seeds=0))
    assert poor.status == "stopped"
    assert poor.epochs < 4
    assert [trial.epochs for trial in good[:2]] == [4, 4]  # too few before them for a median


def test_a_population_moves_weights_from_good_trials_to_poor_ones(dataset: Dataset, tmp_path: Path) -> None:
    """A trial that cannot learn ends near one that can, with its weights and a rate like its."""
    rates = {"optimizer.lr": {"loguniform": [1e-7, 0.03]}}
    population = space(
        rates,
        base=BASE | {"train": BASE["train"] | {"epochs": 8, "batch_size": 128, "threads": 2}},
        scheduler={"name": "pbt", "interval": 1},
        search={"algorithm": "random", "seed": 3},  # two rates that learn, two that do not
    )
    began: dict[int, float] = {}
    begun_before_an_end: set[int] = set()

    def note(progress: Progress) -> None:
        for trial in progress.trials:
            began.setdefault(trial.number, trial.values["optimizer.lr"])
        if not any(trial.has_ended for trial in progress.trials):
            begun_before_an_end.update(trial.number for trial in progress.trials if trial.epochs)

    out = tune(dataset, population, tmp_path / "search", trials=4, seeds=0, on_progress=note)
    assert begun_before_an_end == {0, 1, 2, 3}  # though two run at a time
    trials = trials_of(out)
    assert [(trial.status, trial.error, trial.epochs) for trial in trials] == [("finished", None, 8)] * 4
    best = max(trials, key=lambda trial: trial.value)
    poor = [trial for trial in trials if began[trial.number] < 1e-4]
    assert len(poor) == 2
    assert max(trial.curve[0] for trial in poor) < 0.4 * best.value
    # At such rates the figure would stay what it is after the first epoch. How near it comes to the best
    # depends on how far the others are when it takes over.
    took_over = [trial for trial in poor if trial.curve[-1] > 2 * trial.curve[0]]
    assert took_over, [(trial.number, began[trial.number], trial.values, trial.curve) for trial in trials]
    assert all(trial.values["optimizer.lr"] != began[trial.number] for trial in took_over)


def test_a_trial_of_two_workers_is_what_train_makes_with_two(dataset: Dataset, tmp_path: Path) -> None:
    out = tune(
        dataset,
        space({"optimizer.lr": {"choice": [0.01]}}, search={"algorithm": "grid"}),
        tmp_path / "search",
        workers=2,
        seeds=0,
    )
    (trial,) = trials_of(out)
    alone = train(
        dataset, tmp_path / "alone", load_config(values=BASE, settings=["optimizer.lr=0.01"]), workers=0
    )
    assert trial.status == "finished"
    assert trial.curve == pytest.approx([epoch.valid["ndcg@20"] for epoch in alone.epochs()], abs=1e-3)


def test_a_search_that_has_ended_goes_on_with_more_trials(dataset: Dataset, tmp_path: Path) -> None:
    searched = space({"optimizer.lr": {"loguniform": [1e-6, 0.03]}}, search={"algorithm": "random"})
    out = tune(dataset, searched, tmp_path / "search", trials=2)
    first = trials_of(out)
    resume_search(out.address, trials=5)
    trials = trials_of(out)
    assert trials[:2] == first
    assert [trial.status for trial in trials] == ["finished"] * 5
    search = Search.open(out.address)
    assert search.trials == 5
    assert search.winner().trial == max(trials, key=lambda trial: trial.value).name
    grid = tune(
        dataset, space({"optimizer.lr": {"choice": [0.01]}}, search={"algorithm": "grid"}), tmp_path / "grid"
    )
    message = message_of(lambda: resume_search(grid.address, trials=5))
    assert message.startswith("--trials 5: the grid of ")


def test_what_is_the_machines_fault_is_no_failure_of_a_trial(
    dataset: Dataset, tiny_disk: Path, tmp_path: Path
) -> None:
    """Here its disk is full: the trials go on when there is room."""
    searched = space(
        {"optimizer.lr": {"choice": [0.01, 0.02]}},
        base=BASE | {"model": {"name": "mf", "embedding_dim": 1024}},
        search={"algorithm": "grid"},
    )
    folder = tiny_disk / "search"
    subprocess.run(["mount", "-o", "remount,size=6m", str(tiny_disk)], check=True)
    message = message_of(lambda: tune(dataset, searched, folder, retries=0, seeds=0))
    assert "trial 00000 could not go on" in message
    assert f"continue with `adar-ray tune --resume {folder}`" in message
    assert [trial.status for trial in trials_of(Folder.at(folder))] == ["interrupted"] * 2
    subprocess.run(["mount", "-o", "remount,size=200m", str(tiny_disk)], check=True)
    resume_search(folder)
    assert [(trial.status, trial.error) for trial in trials_of(Folder.at(folder))] == [("finished", None)] * 2


def test_limits_of_patience_and_time_end_a_search(dataset: Dataset, tmp_path: Path) -> None:
    budget = {"trials": 1000, "patience": 2}
    out = tune(
        dataset,
        space({"optimizer.lr": {"choice": [0.01]}}, budget=budget),
        tmp_path / "patience",
        concurrent=1,
        seeds=0,
    )
    trials = trials_of(out)
    assert 3 <= len(trials) <= 5
    # Busy machines take long for the first trial, whose process imports everything.
    seconds = 5 + 2 * trials[0].end
    out = tune(dataset, space(), tmp_path / "time", trials=1000, seconds=seconds, concurrent=1, seeds=0)
    ended = trials_of(out)
    assert 1 <= len(ended) < 200
    assert {trial.status for trial in ended} <= {"finished", "stopped"}
    assert max(trial.end for trial in ended) < 2 * seconds


# What is wrong is said before the first trial.


def test_what_cannot_be_searched(dataset: Dataset, grid: Folder, hand_made: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    assert "cuda" in message_of(lambda: tune(dataset, space(), out, settings=("train.device=cuda",)))
    assert "train.threads" in message_of(lambda: tune(dataset, space(), out, settings=("train.threads=99",)))
    assert "--workers-per-trial 64" in message_of(lambda: tune(dataset, space(), out, workers=64))
    assert "adar.beta" in message_of(lambda: tune(dataset, space({"adar.beta": {"uniform": [0.5, 2]}}), out))
    assert "optimizer.lr" in message_of(lambda: tune(dataset, space(), out, settings=("optimizer.lr=1",)))
    assert not out.exists()
    assert "--resume" in message_of(lambda: tune(dataset, space(), grid.path))
    assert "is not a search" in message_of(lambda: resume_search(tmp_path))
    other = tmp_path / "full"
    other.mkdir()
    (other / "mine").touch()
    assert "not a search" in message_of(lambda: tune(dataset, space(), other))
    assert (other / "mine").exists()


def test_a_search_that_was_killed_goes_on(dataset: Dataset, grid: Folder, tmp_path: Path) -> None:
    """kill -9 of the driver, and with it of its cluster."""
    out, file = tmp_path / "search", tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(space(search={"algorithm": "grid"}).model_dump(mode="json")))
    command = [Path(sys.executable).with_name("adar-ray"), "tune", "--data", dataset.folder.path]
    command += ["--space", str(file), "--out", str(out), "--concurrent", "1", "--seeds", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    second = out / "trials" / "00001" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = Path(out, "trials", "00000", "metrics.jsonl").stat().st_mtime_ns
    resume_search(out)
    assert Path(out, "trials", "00000", "metrics.jsonl").stat().st_mtime_ns == finished
    for number in range(4):
        trial = Path("trials", f"{number:05d}")
        assert lines(out / trial) == lines(Path(grid.path) / trial)
