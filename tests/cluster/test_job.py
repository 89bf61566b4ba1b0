"""Jobs without a cluster: their files, what is shipped, what runs their steps, what is published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from adar_ray.cli.main import cli
from adar_ray.cluster.driver import Record
from adar_ray.cluster.job import Job, check_name
from adar_ray.cluster.ship import files_to_ship, pack
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.publish import publish
from adar_ray.training.run import Run

SHIPPED = Path(__file__).parents[1] / "jobs"
TRAIN = "train --data $storage/data --out $storage/runs/$name"


def write(folder: Path, **keys: Any) -> Path:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({"storage": "/data", "steps": [TRAIN]} | keys), encoding="utf-8")
    return file


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The file.


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_file_in_jobs_is_a_job_whose_steps_the_command_line_takes(file: Path) -> None:
    commands = Job.load(file, ["storage=s3://bucket/adar"]).commands("name")
    for name, *arguments in commands:
        cli.commands[name].make_context(name, arguments)
    assert any("s3://bucket/adar" in word for word in commands[0])


def test_steps_become_words_with_resources_and_settings(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        storage="s3://bucket/a b/",
        parameters={"data": "$storage/sets/$name", "k": 5},
        steps=[
            "train --data $data --out '$storage/$name run' --set train.epochs=9",
            "evaluate $storage/x --k $k",
        ],
        settings=["adar.beta=0.5"],
        workers={"number": 3, "cpus": 2, "gpus": 1},
    )
    job = Job.load(file, ["workers.number=4", "train.epochs=2", "parameters.k=7"])
    train = ["train", "--workers", "4", "--set", "train.threads=2", "--set", "train.device=cuda"]
    train += [
        "--data",
        "s3://bucket/a b/sets/me",
        "--out",
        "s3://bucket/a b/me run",
        "--set",
        "train.epochs=9",
    ]
    # What is set when a job is submitted has the last word.
    train += ["--set", "adar.beta=0.5", "--set", "train.epochs=2"]
    assert job.commands("me") == [train, ["evaluate", "s3://bucket/a b/x", "--k", "7"]]
    assert Job.from_json(job.to_json()).commands("me") == job.commands("me")


def test_a_search_gets_its_workers_a_trial(tmp_path: Path) -> None:
    file = write(tmp_path, steps=["tune --data /d --space s.yaml --out /out"], workers={"number": 0})
    assert Job.load(file).commands("x")[0][:3] == ["tune", "--workers-per-trial", "1"]


def test_values_are_read_as_people_write_them(tmp_path: Path) -> None:
    file = write(
        tmp_path, time_limit="1h30m", entry_point={"memory": "2GiB"}, environment={"N": 3, "ON": True}
    )
    job = Job.load(file)
    assert (job.time_limit, job.entry_point.memory) == (5400, 2 * 2**30)
    assert job.environment == {"N": "3", "ON": "true"}


def test_what_is_shipped_is_told_from_the_job_file_on_and_stays_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    job = Job.load(write(tmp_path / "jobs", ship=".."))
    assert job.ship == str(tmp_path)
    assert str(tmp_path) not in job.to_json()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"storge": "/data"}, ["job.yaml", "storge", "storage?"]),
        ({"workers": {"nmber": 2}}, ["job.yaml", "workers.nmber", "number?"]),
        ({"workers": {"number": -1}}, ["workers.number", "-1"]),
        ({"steps": []}, ["steps"]),
        ({"storage": "data"}, ["storage", "whole address", "data"]),
        ({"steps": ["trian --out /x"]}, ["steps.1", "'trian'", "train?"]),
        ({"steps": ["adar-ray train --out /x"]}, ["steps.1", "'adar-ray'"]),
        ({"steps": [TRAIN, "evaluate $run"]}, ["steps.2", "$run"]),
        ({"steps": ["evaluate 'x"]}, ["steps.1", "quotation"]),
        ({"steps": ["evaluate 5$"]}, ["steps.1", "$$"]),
        ({"steps": ["train --data /d"]}, ["steps.1", "--out"]),
        ({"steps": ["train --data /d --out run"]}, ["steps.1", "--out run", "$storage"]),
        ({"steps": [TRAIN + " --workers 3"]}, ["steps.1", "--workers", "workers.number"]),
        ({"steps": [TRAIN + " --replace"]}, ["steps.1", "--replace", "$name"]),
        ({"steps": ["train --resume=/x"]}, ["steps.1", "--resume", "by itself"]),
        ({"settings": ["adar.betta=1"]}, ["job.yaml", "adar.betta", "adar.beta?"]),
        ({"time_limit": "soon"}, ["time_limit", "soon", "30m"]),
        ({"ship": "..", "image": "adar-ray:1"}, ["ship or image"]),
        ({"parameters": {"name": "x"}}, ["parameters", "'name'"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_wrong_jobs(tmp_path: Path, keys: dict[str, Any], words: list[str]) -> None:
    message = message_of(lambda: Job.load(write(tmp_path, **keys)))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("storge=/x", ["--set storge=/x", "storage?"]),
        ("storage", ["--set storage", "key=value"]),
        ("workers.number=many", ["--set workers.number=many", "many"]),
        ("adar.betta=1", ["--set adar.betta=1", "adar.beta?"]),
        ("retries=-1", ["--set retries=-1"]),
    ],
)
def test_wrong_settings(tmp_path: Path, setting: str, words: list[str]) -> None:
    message = message_of(lambda: Job.load(write(tmp_path), [setting]))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "keys",
    [
        {"environment": {"AWS_SECRET_ACCESS_KEY": "hunter2"}},
        {"environment": {"HF_TOKEN": "hunter2"}},
        {"environment": {"DATABASE": "postgres://me:hunter2@host/db"}},
        {"storage": "s3://me:hunter2@bucket/x"},
        {"storage": "s3://bucket/x?secret_key=hunter2"},
        {"steps": ["prepare https://me:hunter2@host/x.csv --out /x"]},
    ],
)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, keys: dict[str, Any]) -> None:
    message = message_of(lambda: Job.load(write(tmp_path, **keys)))
    assert "everybody who may list jobs" in message
    assert "hunter2" not in message


def test_names() -> None:
    assert check_name("nightly-2030_01") == "nightly-2030_01"
    for name in ("", "a.2", "../x", "a b", "-x", "x" * 101):
        assert "--name" in message_of(lambda name=name: check_name(name))


# What is shipped.


def project(folder: Path) -> None:
    for name in (
        *("model.py", "package/data/reader.py", "spaces/a.yaml", "notes.md"),
        *(
            ".env",
            "prod.env.d/.env.local",
            "tls/server.pem",
            "tls/server.key",
            ".aws/config",
            "secrets/token",
        ),
        *("mine/credentials", ".venv/lib/x.py", "package/__pycache__/x.pyc", "ignored/big.bin"),
        *("set/dataset.json", "set/train/00000.parquet", "runs/one/config.yaml", "runs/one/metrics.jsonl"),
        *("runs/one/model/weights.safetensors", "found/search.yaml", "found/trials/00000/config.yaml"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("/ignored/\n")


def test_code_is_shipped_without_data_runs_and_secrets(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project(here)
    elsewhere.write_text("not of this project")
    (here / "link").symlink_to(elsewhere)
    code = [".gitignore", "model.py", "notes.md", "package/data/reader.py", "spaces/a.yaml"]
    assert [str(path) for path in files_to_ship(here)] == sorted([*code, "ignored/big.bin"])
    subprocess.run(["git", "init", "--quiet", str(here)], check=True)
    subprocess.run(["git", "-C", str(here), "add", "--force", ".env", "model.py"], check=True)
    assert [str(path) for path in files_to_ship(here)] == code

    pack(here, tmp_path / "one.zip")
    os.utime(here / "model.py", (0, 0))
    pack(here, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == code
        assert archive.read("package/data/reader.py") == b"package/data/reader.py"


def test_what_cannot_be_shipped(tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    assert "no such folder" in message_of(lambda: pack(tmp_path / "nowhere", archive))
    (tmp_path / "empty").mkdir()
    assert "nothing" in message_of(lambda: pack(tmp_path / "empty", archive))
    for folder in (Path.home(), Path("/")):
        assert "a whole home or disk" in message_of(lambda folder=folder: pack(folder, archive))
    (tmp_path / "large").mkdir()
    with (tmp_path / "large" / "clicks.csv").open("wb") as file:
        file.truncate(100_000_001)  # a hole, which takes no space
    assert "clicks.csv" in message_of(lambda: pack(tmp_path / "large", archive))
    assert not archive.exists()


# How far a job has come.


def job_of(tmp_path: Path, *steps: str) -> Job:
    return Job.load(write(tmp_path, storage=str(tmp_path), steps=list(steps)))


def test_a_step_goes_on_where_its_own_work_lies(tmp_path: Path) -> None:
    job = job_of(tmp_path, TRAIN, "prepare /x.csv --out $storage/set", "evaluate /run")
    train, prepare, evaluate = job.commands("me")
    record = Record(job, "me")
    assert record.begin(train) == train
    run = tmp_path / "runs" / "me"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert Record(job, "me").begin(train) == ["train", "--resume", str(run)]

    assert record.begin(prepare) == prepare
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "half").touch()
    assert Record(job, "me").begin(prepare) == prepare
    assert not (tmp_path / "set").exists()

    assert record.begin(evaluate) == evaluate
    assert record.begin(evaluate) == evaluate


def test_what_lay_there_before_a_step_began_is_never_touched(tmp_path: Path) -> None:
    job = job_of(tmp_path, "prepare /x.csv --out $storage/set")
    (prepare,) = job.commands("me")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").touch()
    for _ in range(2):
        assert Record(job, "me").begin(prepare) == prepare
    assert (tmp_path / "set" / "precious").exists()


def test_steps_that_are_done_stay_done_up_to_the_first_that_is_changed(tmp_path: Path) -> None:
    steps = ["evaluate /a", "evaluate /b", "evaluate /c"]
    job = job_of(tmp_path, *steps)
    record = Record(job, "me")
    for words in job.commands("me"):
        record.add(words)
    assert [Record(job, "me").is_done(number) for number in range(3)] == [True, True, True]
    changed = job_of(tmp_path, "evaluate /a", "evaluate /B", "evaluate /c")
    assert [Record(changed, "me").is_done(number) for number in range(3)] == [True, False, False]
    assert [Record(changed, "other").is_done(number) for number in range(3)] == [False] * 3


def test_the_younger_of_two_drivers_has_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path, "evaluate /a")
    older = Record(job, "me")
    assert older.is_ours
    younger = Record(job, "me")
    assert (older.is_ours, younger.is_ours) == (False, True)


def drive(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adar_ray.cluster.driver", file, "--name", "me", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_job_that_ran_out_of_time_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    small = "--set model.dim=8 --set adar.pool=16 --set train.device=cpu --set train.batch_size=16"
    train = f"train --data {dataset.folder} --out $storage/runs/$name {small} --set train.patience=999"
    file = write(tmp_path, storage=str(tmp_path / "store"), workers={"number": 0}, steps=[train])
    run = tmp_path / "store" / "runs" / "me"
    for _ in range(10):  # until an epoch is finished within the limit, on a slow machine
        first = drive(file, "--set", "train.epochs=999", "--set", "time_limit=12s")
        assert first.returncode == 1, first.stderr
        assert first.stderr.splitlines()[-1] == (
            "adar-ray job: the time limit of 12 s is over; submitted again, the job goes on"
        )
        if (run / "checkpoints" / "last.pt").exists():
            break
    finished = len((run / "metrics.jsonl").read_text().splitlines())
    assert 1 <= finished < 999

    # The run's own configuration counts from here on: fewer epochs end it.
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["train"]["epochs"] = finished + 2
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    second = drive(file, "--set", "train.epochs=999")
    assert second.returncode == 0, second.stderr
    assert f"train --resume {run}" in second.stderr
    assert second.stderr.count("epoch ") <= 3
    assert json.loads((run / "result.json").read_text())["epochs"] == finished + 2


def test_a_step_that_is_interrupted_stops_its_job(dataset: Dataset, tmp_path: Path) -> None:
    small = "--set model.dim=8 --set adar.pool=16 --set train.device=cpu --set train.epochs=100000"
    train = f"train --data {dataset.folder} --out $storage/runs/$name {small} --set train.patience=99999"
    file = write(tmp_path, storage=str(tmp_path / "store"), workers={"number": 0}, steps=[train], retries=3)
    command = [sys.executable, "-m", "adar_ray.cluster.driver", file, "--name", "me"]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "store" / "runs" / "me" / "checkpoints" / "last.pt").exists():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (step,) = psutil.Process(driver.pid).children()
    step.send_signal(signal.SIGINT)
    _, told = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert told.splitlines()[-1] == "adar-ray job: stopped; submitted again, me goes on"


def test_the_status_of_a_step_that_fails_is_the_jobs(tmp_path: Path) -> None:
    file = write(tmp_path, storage=str(tmp_path / "store"), steps=["evaluate $storage/nowhere"])
    ended = drive(file)
    assert ended.returncode == 1
    assert f"{tmp_path}/store/nowhere: is no run" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("adar-ray job: step 1 of 1 failed with status 1")


# What is in place.


def finished(folder: Path, dataset: Dataset, ndcg: float, metric: str = "ndcg@20") -> Run:
    run = Run.create(folder, load_config(settings=[f"train.metric={metric}"]), dataset, 0)
    run.folder.write_json("result.json", {"valid": {metric: ndcg}})
    return run


def test_the_better_model_is_in_place(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "place"
    good, better, worse = (
        finished(tmp_path / name, dataset, ndcg)
        for name, ndcg in (("good", 0.3), ("better", 0.4), ("worse", 0.2))
    )

    def in_place() -> dict[str, Any]:
        return json.loads((place / "published.json").read_text())

    assert publish(good, place, "top")["published"]
    assert in_place() == {
        "run": good.folder.address,
        "metric": "ndcg@20",
        "value": 0.3,
        "recommendations": "top",
    }
    refused = publish(worse, place)
    assert (refused["published"], refused["offered"], refused["value"]) == (False, 0.2, 0.3)
    assert in_place()["run"] == good.folder.address
    assert publish(better, place)["published"]
    assert in_place()["run"] == better.folder.address
    assert publish(finished(tmp_path / "as-good", dataset, 0.4), place)["published"]
    assert in_place()["run"] == str(tmp_path / "as-good")
    assert [path.name for path in place.iterdir()] == ["published.json"]


def test_what_cannot_be_judged_is_not_published(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "place"
    unfinished = Run.create(tmp_path / "unfinished", load_config(), dataset, 0)
    assert "adar-ray train --resume" in message_of(lambda: publish(unfinished, place))
    blind = Run.create(tmp_path / "blind", load_config(), dataset, 0)
    blind.folder.write_json("result.json", {"valid": None})
    assert "--valid-fraction" in message_of(lambda: publish(blind, place))
    assert not place.exists()
    publish(finished(tmp_path / "good", dataset, 0.3), place)
    other = finished(tmp_path / "other", dataset, 0.9, "recall@10")
    assert "recall@10" in message_of(lambda: publish(other, place))
