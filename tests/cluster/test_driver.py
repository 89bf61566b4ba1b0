"""The driver of a job: what it records, and how it runs steps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adar_ray.cli.main import cli
from adar_ray.cluster import driver
from adar_ray.cluster.driver import ProgressFile, read_progress, run_job
from adar_ray.cluster.job import JOB, NAME, WITH_OUT, Job
from adar_ray.data.dataset import Dataset
from adar_ray.lease import hold
from adar_ray.storage import Folder
from adar_ray.training.run import Run
from adar_ray.training.trainer import revised
from tests.cluster.jobs import TRAIN, job_of, message_of, write
from tests.training.checkpoints import last_epoch


def test_a_log_tells_how_far_its_job_is() -> None:
    assert read_progress("") == {}
    log = "adar-ray job: step 1 of 3 is already done: prepare /x.csv\n"
    assert read_progress(log) == {}
    log += "adar-ray job: step 2 of 3: train --resume /run --trust\n"
    assert read_progress(log) == {"step": "2 of 3: train"}
    log += " epoch    loss  ndcg@20  hardness  interactions/s\n"
    log += " 7/100  0.5000   0.1250     0.250      12,345,679\n"
    training = {"epoch": "7 of 100", "metric": "ndcg@20 0.1250"}
    assert read_progress(log) == {"step": "2 of 3: train"} | training
    log += "adar-ray job: step 3 of 3: evaluate /run\n"
    assert read_progress(log) == {"step": "3 of 3: evaluate"} | training
    log += "adar-ray job: step 1 of 1: train --out /other\n"
    assert read_progress(log) == {"step": "1 of 1: train"}


def test_a_step_that_began_resumes_or_starts_over(tmp_path: Path) -> None:
    job = job_of(tmp_path, TRAIN, "prepare /x.csv --out $storage/set", "evaluate /run")
    train, prepare, evaluate = job.commands("me")
    progress = ProgressFile(job, "me")
    assert progress.begin(train) == train
    run = tmp_path / "runs" / "me"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert ProgressFile(job, "me").begin(train) == ["train", "--resume", str(run), "--trust"]

    assert progress.begin(prepare) == prepare
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "half").touch()
    assert ProgressFile(job, "me").begin(prepare) == ["prepare", "--replace", *prepare[1:]]
    assert (tmp_path / "set" / "half").exists()

    assert progress.begin(evaluate) == evaluate
    assert progress.begin(evaluate) == evaluate


def test_files_from_before_a_step_are_never_removed(tmp_path: Path) -> None:
    job = job_of(tmp_path, "prepare /x.csv --out $storage/set")
    (prepare,) = job.commands("me")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").touch()
    for _ in range(2):
        assert ProgressFile(job, "me").begin(prepare) == prepare
    assert (tmp_path / "set" / "precious").exists()


@pytest.mark.parametrize("is_killed", [False, True])
def test_files_from_after_a_step_has_left_nothing_are_never_removed(is_killed: bool, tmp_path: Path) -> None:
    step = f"prepare {tmp_path}/later.csv --out $storage/set --split ratio"
    file = write(tmp_path, storage=str(tmp_path), steps=[step])
    if is_killed:  # before it has written anything
        job = Job.load(file)
        ProgressFile(job, "me").begin(job.commands("me")[0])
    else:
        assert "later.csv" in drive(file).stderr
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("mine")
    (tmp_path / "later.csv").write_text("user,item\na,b\na,c\nb,b\nb,c\n")
    ended = drive(file)
    assert ended.returncode == 1
    assert ("cannot be replaced" if is_killed else "already exists") in ended.stderr
    assert (tmp_path / "set" / "precious").read_text() == "mine"


def test_what_others_make_after_a_step_has_failed_is_theirs(
    dataset: Dataset, hand_made: Path, tmp_path: Path
) -> None:
    """A dataset is what a step of the same kind would replace."""
    step = "prepare $storage/later.csv --out $storage/set"
    file = write(tmp_path, storage=str(tmp_path), steps=[step])
    assert drive(file).returncode == 1
    shutil.copytree(dataset.folder.path, tmp_path / "set")
    shutil.copy(hand_made, tmp_path / "later.csv")
    assert f"{tmp_path}/set: already exists" in drive(file).stderr
    assert Dataset.open(tmp_path / "set").checksum == dataset.checksum


@pytest.mark.slow
def test_what_a_killed_step_has_left_is_replaced(dataset: Dataset, hand_made: Path, tmp_path: Path) -> None:
    file = write(tmp_path, storage=str(tmp_path), steps=[f"prepare {hand_made} --out $storage/set"])
    job = Job.load(file)
    ProgressFile(job, "me").begin(job.commands("me")[0])
    shutil.copytree(dataset.folder.path, tmp_path / "set")  # complete, but nothing says so yet
    ended = drive(file)
    assert ended.returncode == 0, ended.stderr
    assert Dataset.open(tmp_path / "set").checksum != dataset.checksum


@pytest.mark.parametrize("command", WITH_OUT)
def test_every_command_that_a_job_may_repeat_can_replace_its_output(command: str) -> None:
    assert any("--replace" in option.opts for option in cli.commands[command].params)


def test_a_job_that_has_changed_loses_nothing_of_the_one_before(tmp_path: Path) -> None:
    steps = ["prepare /x.csv --out $storage/set --core $core", TRAIN + " --set train.epochs=$epochs"]

    def job(core: int, epochs: int) -> Job:
        parameters = {"core": core, "epochs": epochs}
        return Job.load(write(tmp_path, storage=str(tmp_path), steps=steps, parameters=parameters))

    original = job(5, 60)
    prepare, train = original.commands("me")
    progress = ProgressFile(original, "me")
    progress.begin(prepare)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").touch()
    progress.add_done(prepare)
    progress.begin(train)
    run = tmp_path / "runs" / "me"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()

    longer = job(5, 90)
    changed = ProgressFile(longer, "me")
    assert changed.is_done(0)
    assert message_of(lambda: changed.begin(longer.commands("me")[1])) == (
        f"{run}: the job has changed since this step began; submit it unchanged, or under another --name"
    )
    denser = job(9, 60)
    changed = ProgressFile(denser, "me")
    assert not changed.is_done(0)
    assert changed.begin(denser.commands("me")[0]) == denser.commands("me")[0]  # which the command refuses
    elsewhere = job_of(tmp_path, "train --data /data --out $storage/elsewhere")
    ProgressFile(elsewhere, "me").begin(elsewhere.commands("me")[0])

    again = ProgressFile(original, "me")
    assert again.is_done(0)
    assert again.begin(train) == ["train", "--resume", str(run), "--trust"]


def test_steps_stay_done_up_to_the_first_that_changed(tmp_path: Path) -> None:
    steps = ["evaluate /a", "evaluate /b", "evaluate /c"]
    job = job_of(tmp_path, *steps)
    progress = ProgressFile(job, "me")
    for words in job.commands("me"):
        progress.add_done(words)
    assert [ProgressFile(job, "me").is_done(number) for number in range(3)] == [True, True, True]
    changed = job_of(tmp_path, "evaluate /a", "evaluate /B", "evaluate /c")
    assert [ProgressFile(changed, "me").is_done(number) for number in range(3)] == [True, False, False]
    assert [ProgressFile(changed, "other").is_done(number) for number in range(3)] == [False] * 3


def test_a_second_driver_takes_over_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path, "evaluate /a")
    first = ProgressFile(job, "me")
    assert first.is_ours
    second = ProgressFile(job, "me")
    assert (first.is_ours, second.is_ours) == (False, True)


def drive(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adar_ray.cluster.driver", file, "--name", "me", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_job_resumes_after_its_time_limit(dataset: Dataset, tmp_path: Path) -> None:
    small = "--set model.embedding_dim=8 --set adar.pool=16 --set train.device=cpu --set train.batch_size=16"
    train = f"train --data {dataset.folder} --out $storage/runs/$name {small} --set train.patience=999"
    file = write(tmp_path, storage=str(tmp_path / "store"), workers={"number": 0}, steps=[train])
    run = tmp_path / "store" / "runs" / "me"
    for _ in range(10):  # a slow machine may not finish an epoch within the limit
        first = drive(file, "--set", "train.epochs=999", "--set", "time_limit=12s")
        assert first.returncode == 1, first.stderr
        assert first.stderr.splitlines()[-1] == (
            "adar-ray job: the time limit of 12 s has passed; submit the job again to continue"
        )
        if last_epoch(run):
            break
    finished = len((run / "metrics.jsonl").read_text().splitlines())
    assert 1 <= finished < 999

    # From here on the configuration in the run folder counts: fewer epochs end the run.
    revised(Run.open(run), [f"train.epochs={finished + 2}"]).write_config()
    second = drive(file, "--set", "train.epochs=999")
    assert second.returncode == 0, second.stderr
    assert f"train --resume {run}" in second.stderr
    assert second.stderr.count("epoch ") <= 3
    assert json.loads((run / "result.json").read_text())["epochs"] == finished + 2


@pytest.mark.slow
def test_an_interrupted_step_stops_its_job(dataset: Dataset, tmp_path: Path) -> None:
    import psutil  # found once Ray, which brings it, is imported

    small = "--set model.embedding_dim=8 --set adar.pool=16 --set train.device=cpu --set train.epochs=50000"
    train = f"train --data {dataset.folder} --out $storage/runs/$name {small} --set train.patience=99999"
    file = write(tmp_path, storage=str(tmp_path / "store"), workers={"number": 0}, steps=[train], retries=3)
    command = [sys.executable, "-m", "adar_ray.cluster.driver", file, "--name", "me"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not last_epoch(tmp_path / "store" / "runs" / "me"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (step,) = psutil.Process(process.pid).children()
    step.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "adar-ray job: stopped; submit me again to continue"


@pytest.mark.slow
def test_sigterm_stops_a_job_that_a_shell_runs_in_the_background(tmp_path: Path) -> None:
    file = write(tmp_path, storage=str(tmp_path / "store"), steps=["train --data /no --out $storage/run"])
    job = f"trap '' INT; exec {sys.executable} -m adar_ray.cluster.driver {file} --name me"
    with hold(Folder.at(tmp_path / "store" / "run")):
        process = subprocess.Popen(["sh", "-c", job], stderr=subprocess.PIPE, text=True)
        assert "waiting up to 60 s" in process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=30) == 130


@pytest.mark.slow
def test_a_step_waits_for_the_one_it_takes_over_from(tmp_path: Path) -> None:
    file = write(
        tmp_path, storage=str(tmp_path / "store"), steps=["train --data /nowhere --out $storage/run"]
    )
    command = [sys.executable, "-m", "adar_ray.cluster.driver", file, "--name", "me"]
    with hold(Folder.at(tmp_path / "store" / "run")):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        waited = process.stderr.readline().rstrip()
        (tmp_path / "store" / "run" / "lease.json").unlink()
        step, error = process.communicate(timeout=120)[1].splitlines()[:2]
    assert waited.startswith(f"{tmp_path}/store/run: in use by process {os.getpid()} on ")
    assert waited.endswith("waiting up to 60 s for its end")
    assert "step 1 of 1" in step
    assert "/nowhere: is not a dataset" in error


def test_a_job_exits_with_the_status_of_its_failed_step(tmp_path: Path) -> None:
    file = write(tmp_path, storage=str(tmp_path / "store"), steps=["evaluate $storage/nowhere"])
    ended = drive(file)
    assert ended.returncode == 1
    assert f"{tmp_path}/store/nowhere: is not a run" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("adar-ray job: step 1 of 1 failed with status 1")


@pytest.mark.parametrize(("is_submitted", "cpus"), [(False, "0.0"), (True, "2.0")])
def test_only_a_submitted_job_counts_the_cpus_of_its_entry_point(
    is_submitted: bool, cpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = "import os, sys; print('cpus', os.environ.get('ADAR_RAY_ENTRY_POINT_CPUS'), file=sys.stderr)"
    (tmp_path / "sitecustomize.py").write_text(spy)  # which Python runs when it starts
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    file = write(tmp_path, storage=str(tmp_path), steps=["evaluate $storage/no"], entry_point={"cpus": 2})
    command = [sys.executable, "-m", "adar_ray.cluster.driver"]
    if is_submitted:
        monkeypatch.setenv(JOB, Job.load(file).to_json())
        monkeypatch.setenv(NAME, "me")
    else:
        command.append(str(file))
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert [line for line in ended.stderr.splitlines() if line.startswith("cpus")] == [
        "cpus None",  # the driver itself
        f"cpus {cpus}",
    ]


def test_only_what_may_pass_by_itself_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "RETRY_SECONDS", 0.0)
    for step in ("evaluate $storage/nowhere", "prepare $storage/nowhere.csv --out $storage/set"):
        job = Job.load(write(tmp_path, storage=str(tmp_path), steps=[step], retries=2))
        assert run_job(job, "lasting") == 1
    assert "retrying" not in capfd.readouterr().err
    # A head that is not there may come back.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (tmp_path / "pairs.csv").write_text("user,item\na,b\n")
    step = "prepare $storage/pairs.csv --out $storage/set"
    job = Job.load(write(tmp_path, storage=str(tmp_path), steps=[step], retries=2))
    assert run_job(job, "passing") == 75
    assert capfd.readouterr().err.count("failed with status 75; retrying") == 2
