"""Job files: how they are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from adar_ray.cli.main import cli
from adar_ray.cluster.job import Job, check_name
from tests.cluster.jobs import TRAIN, message_of, write

SHIPPED = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_steps_of_every_file_in_jobs_are_valid_commands(file: Path) -> None:
    commands = Job.load(file, ["storage=s3://bucket/adar"]).commands("name")
    root = click.Context(cli, **cli.context_settings)
    for name, *arguments in commands:
        cli.commands[name].make_context(name, arguments, parent=root)
    assert any("s3://bucket/adar" in word for word in commands[0])


def test_steps_become_command_lines_with_resources_and_settings(tmp_path: Path) -> None:
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
    train += ["--set", "train.gpus=1"]
    train += [
        "--data",
        "s3://bucket/a b/sets/me",
        "--out",
        "s3://bucket/a b/me run",
        "--set",
        "train.epochs=9",
    ]
    # --set on the command line overrides the file.
    train += ["--set", "adar.beta=0.5", "--set", "train.epochs=2"]
    assert job.commands("me") == [train, ["evaluate", "s3://bucket/a b/x", "--k", "7"]]
    assert Job.from_json(job.to_json()).commands("me") == job.commands("me")


def test_workers_of_a_search_are_per_trial(tmp_path: Path) -> None:
    file = write(tmp_path, steps=["tune --data /d --space s.yaml --out /out"], workers={"number": 0})
    assert Job.load(file).commands("x")[0][:3] == ["tune", "--workers-per-trial", "1"]


def test_a_range_of_workers(tmp_path: Path) -> None:
    steps = ["train --data /d --out /r", "tune --data /d --space s.yaml --out /s"]
    file = write(tmp_path, steps=steps)
    file.write_text(file.read_text() + "workers: {number: 2:4}\n")  # which YAML 1.1 reads as 124
    commands = Job.load(file).commands("x")
    assert commands[0][1:3] == ["--workers", "2:4"]
    assert commands[1][1:3] == ["--workers-per-trial", "2"]
    assert Job.load(file, ["workers.number=1:3"]).workers.number == "1:3"


def test_durations_sizes_and_scalars_are_parsed(tmp_path: Path) -> None:
    file = write(
        tmp_path, time_limit="1h30m", entry_point={"memory": "2GiB"}, environment={"N": 3, "ON": True}
    )
    job = Job.load(file)
    assert (job.time_limit, job.entry_point.memory) == (5400, 2 * 2**30)
    assert job.environment == {"N": "3", "ON": "true"}


def test_what_only_begins_like_a_secrets_name_is_none(tmp_path: Path) -> None:
    names = {"KEYBOARD": "de", "MONKEYS": "2", "LC_ALL": "C", "HOST": "a"}
    assert Job.load(write(tmp_path, environment=names)).environment == names


AS_WRITTEN = [
    "2026_07_01",
    "007",
    "1.10",
    "no",
    "Yes",
    "1e3",
    "0x10",
    "1:30",
    "2001-02-03",
    ".inf",
    "9" * 500,
]


@pytest.mark.parametrize("value", AS_WRITTEN)
def test_text_stays_as_it_is_written(tmp_path: Path, value: str) -> None:
    (tmp_path / "job.yaml").write_text(
        f"storage: /data\nsteps: [evaluate /$run]\nparameters: {{run: {value}}}\n"
        f"environment: {{VERSION: {value}, no: x}}\nlabels: {{release: 1.10, 007: no}}\n"
    )
    job = Job.load(tmp_path / "job.yaml")
    assert job.commands("x") == [["evaluate", f"/{value}"]]
    assert job.environment == {"VERSION": value, "no": "x"}
    assert job.labels == {"release": "1.10", "007": "no"}


@pytest.mark.parametrize("value", [*AS_WRITTEN, "", "null", "a #b", "a: b", "'a'", "%d", "[1", "*x", "k=v"])
def test_text_that_is_set_stays_as_it_is_written(tmp_path: Path, value: str) -> None:
    file = write(tmp_path, steps=["evaluate /$run"], parameters={"run": "x"})
    job = Job.load(file, [f"parameters.run={value}", f"environment.VERSION={value}"])
    assert job.commands("x") == [["evaluate", f"/{value}"]]
    assert job.environment == {"VERSION": value}


def test_a_mapping_that_is_set_keeps_its_text(tmp_path: Path) -> None:
    file = write(tmp_path, steps=["evaluate /$run"])
    assert Job.load(file, ["parameters={run: 1.10}"]).commands("x") == [["evaluate", "/1.10"]]


def test_ship_is_relative_to_the_job_file_and_is_not_submitted(tmp_path: Path) -> None:
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
        ({"workers": {"number": "4:1"}}, ["workers.number 4:1", "such as 1:4"]),
        ({"steps": []}, ["steps"]),
        ({"environment": {"A": [["x"] * 9000]}}, ["environment.A"]),
        ({"environment": {"": "1"}}, ["environment", "'' cannot name a variable", "letters, digits and _"]),
        ({"environment": {"A=B": "1"}}, ["environment", "'A=B'"]),
        ({"environment": {"A B": "1"}}, ["environment", "'A B'"]),
        ({"environment": {"ADAR_RAY_JOB": "1"}}, ["environment", "except ADAR_RAY_JOB and"]),
        ({"environment": {"ADAR_RAY_JOB_NAME": "1"}}, ["environment", "except ADAR_RAY_JOB and"]),
        ({"time_limit": "9" * 400}, ["time_limit", "too long"]),
        ({"storage": "data"}, ["storage", "absolute path", "data"]),
        ({"steps": ["publish --rollback --to /x"]}, ["steps.1", "drop --rollback"]),
        ({"steps": ["trian --out /x"]}, ["steps.1", "'trian'", "train?"]),
        ({"steps": ["adar-ray train --out /x"]}, ["steps.1", "'adar-ray'"]),
        ({"steps": [TRAIN, "evaluate $run"]}, ["steps.2", "$run"]),
        ({"steps": ["evaluate 'x"]}, ["steps.1", "quotation"]),
        ({"steps": ["evaluate 5$"]}, ["steps.1", "$$"]),
        ({"steps": ["train --data /d"]}, ["steps.1", "--out"]),
        ({"steps": ["train --data /d --out run"]}, ["steps.1", "--out run", "$storage"]),
        ({"steps": ["train --data /d --out /run --out run"]}, ["steps.1", "--out run", "$storage"]),
        ({"steps": ["publish /run --to=published"]}, ["steps.1", "--to published", "$storage"]),
        (
            {"steps": ["publish /run --to /published --recommendations top"]},
            ["steps.1", "--recommendations top", "$storage"],
        ),
        ({"steps": [TRAIN + " --workers 3"]}, ["steps.1", "--workers", "workers.number"]),
        ({"steps": [TRAIN + " --replace"]}, ["steps.1", "--replace", "$name"]),
        ({"steps": ["train --resume=/x"]}, ["steps.1", "--resume", "by itself"]),
        ({"settings": ["adar.betta=1"]}, ["job.yaml", "adar.betta", "adar.beta?"]),
        ({"time_limit": "soon"}, ["time_limit", "soon", "30m"]),
        ({"ship": "..", "image": "adar-ray:1"}, ["ship or image"]),
        ({"parameters": {"name": "x"}}, ["parameters", "'name'"]),
        (
            {"steps": ["evaluate $data"], "parameters": {"data": "/d", "dat": "/x"}},
            ["job.yaml: parameters.dat", "$dat", "did you mean data?"],
        ),
        ({"parameters": {"data": "/d"}}, ["job.yaml: parameters.data", "$data", "leave it out"]),
        ({"steps": ["evaluate $$x"], "parameters": {"x": "1"}}, ["parameters.x: no step uses"]),
        (
            {"steps": ["evaluate /x"], "settings": ["train.epochs=3"]},
            ["job.yaml: settings", "leave them out"],
        ),
        ({"steps": ["evaluate /x"], "workers": {"number": 8}}, ["job.yaml: workers", "leave them out"]),
        ({"steps": ["evaluate /x --help"]}, ["steps.1", "drop --help"]),
        ({"steps": ["train -h --out /x"]}, ["steps.1", "drop -h"]),
        ({"steps": [TRAIN + " --show-config"]}, ["steps.1", "drop --show-config", "trains nothing"]),
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
        ("trian.epochs=3", ["--set trian.epochs=3", "no key trian.epochs", "did you mean train?"]),
        ("wokers.number=3", ["--set wokers.number=3", "no key wokers.number", "did you mean workers?"]),
        ("custom.store=s3://me:hunter2@bucket/x", ["everyone who can list jobs"]),
        ("retries=-1", ["--set retries=-1"]),
        ("retries=" + "9" * 5000, ["--set retries=999", "maximum size"]),
        ("workers.number=[1", ["--set workers.number", "not valid YAML"]),
        ("parameters.day=\udc80", ["--set parameters.day", "is not UTF-8"]),
        ("parameters=!!set {a}", ["--set parameters", "leave out the tag !!set"]),
    ],
)
def test_wrong_settings(tmp_path: Path, setting: str, words: list[str]) -> None:
    message = message_of(lambda: Job.load(write(tmp_path), [setting]))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("file", "setting", "words"),
    [
        ("train", "parameters.dat=/x", ["parameters.dat", "did you mean data?"]),
        ("evaluate", "train.epochs=60", ["settings: no step is a train or a tune", "leave them out"]),
        ("evaluate", "workers.number=8", ["workers: no step is a train or a tune", "leave them out"]),
    ],
)
def test_settings_that_would_have_no_effect(file: str, setting: str, words: list[str]) -> None:
    message = message_of(lambda: Job.load(SHIPPED / f"{file}.yaml", [setting]))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "keys",
    [
        {"environment": {"AWS_SECRET_ACCESS_KEY": "hunter2"}},
        {"environment": {"HF_TOKEN": "hunter2"}},
        {"environment": {"AZURE_STORAGE_ACCOUNT_KEY": "hunter2"}},
        {"environment": {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=hunter2"}},
        {"environment": {"MYSQL_PWD": "hunter2"}},
        {"environment": {"PGPWD": "hunter2"}},
        {"environment": {"GH_PAT": "hunter2"}},
        {"environment": {"AUTH": "hunter2"}},
        {"environment": {"SLACK_WEBHOOK_URL": "https://hooks/hunter2"}},
        {"environment": {"LOGIN": "ghp_" + 6 * "hunter2"}},
        {"environment": {"LOGIN": "xoxb-hunter2"}},
        {"environment": {"DATABASE": "me:hunter2@host/db"}},
        {"settings": ["custom.store=me:hunter2@host/db"]},
        {"environment": {"STORAGE": "AccountName=me;AccountKey=hunter2"}},
        {"image": "https://me:hunter2@registry/x"},
        {"settings": ["custom.store=s3://me:hunter2@bucket/x"]},
        {"environment": {"DATABASE": "postgres://me:hunter2@host/db"}},
        {"storage": "s3://me:hunter2@bucket/x"},
        {"storage": "s3://bucket/x?secret_key=hunter2"},
        {"steps": ["prepare https://me:hunter2@host/x.csv --out /x"]},
    ],
)
def test_secrets_are_refused_and_not_printed(tmp_path: Path, keys: dict[str, Any]) -> None:
    message = message_of(lambda: Job.load(write(tmp_path, **keys)))
    assert "everyone who can list jobs" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "keys",
    [
        {"environment": {"TOKENIZERS_PARALLELISM": "false"}},
        {"environment": {"PWD": "/work", "OLDPWD": "/"}},
        {"environment": {"PYTHONPATH": "/code", "AUTHOR": "ana@example.org", "RAY_AUTH_MODE": "token"}},
        {"environment": {"PROXY": "http://proxy.example.org:3128", "START": "10:30"}},
        {"image": "registry.example.org:5000/adar-ray:1@sha256:" + 64 * "a"},
        {"settings": ["train.metric=my_metrics:revenue@10"]},
        {"steps": ["train --data /d --out /r --set train.metric=my_metrics:revenue@10"]},
        {"storage": "/data/hf_recommendation_runs_of_november"},
        {"environment": {"COLUMN": "ghp_my_column_name_is_quite_long_indeed"}},
    ],
)
def test_what_is_no_secret_is_taken(tmp_path: Path, keys: dict[str, Any]) -> None:
    Job.load(write(tmp_path, **keys))


def test_an_owner_and_labels_do_not_make_another_job(tmp_path: Path) -> None:
    plain = Job.load(write(tmp_path))
    labeled = Job.load(write(tmp_path, owner="ana@example.org", labels={"team": "search", "cost-center": 42}))
    assert labeled.labels == {"team": "search", "cost-center": "42"}
    assert labeled.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "keys",
    [
        {"owner": ""},
        {"owner": "a b"},
        {"owner": "x" * 64},
        {"labels": {"team": "a, b"}},
        {"labels": {"": "x"}},
        {"labels": {"team": None}},
        {"labels": {f"n{n}": "x" for n in range(65)}},
    ],
)
def test_what_is_no_label(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert next(iter(keys)) in message_of(lambda: Job.load(write(tmp_path, **keys)))


def test_part_of_a_gpu(tmp_path: Path) -> None:
    (words,) = Job.load(write(tmp_path, workers={"number": 1, "gpus": 0.25})).commands("x")
    assert words[3:7] == ["--set", "train.device=cuda", "--set", "train.gpus=0.25"]
    (words,) = Job.load(write(tmp_path, workers={"number": 1, "gpus": 0})).commands("x")
    assert words[3:6] == ["--set", "train.device=cpu", "--data"]
    for gpus in (-0.5, 1.5, "many"):
        assert "workers.gpus" in message_of(
            lambda gpus=gpus: Job.load(write(tmp_path, workers={"gpus": gpus}))
        )


def test_job_names() -> None:
    assert check_name("nightly-2030_01") == "nightly-2030_01"
    for name in ("", "a.2", "../x", "a b", "-x", "x" * 101):
        assert "--name" in message_of(lambda name=name: check_name(name))


def test_values_that_other_yaml_takes_for_dates_are_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "storage: /data\nsteps: [evaluate $day]\nparameters: {day: 2001-02-03}\n", encoding="utf-8"
    )
    assert Job.load(tmp_path / "job.yaml").commands("x") == [["evaluate", "2001-02-03"]]


@pytest.mark.parametrize("text", ["", "[1, 2]", "- storage", "just words", "null"])
def test_a_file_that_holds_no_keys(tmp_path: Path, text: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    assert "job.yaml: " in message_of(lambda: Job.load(tmp_path / "job.yaml"))


def test_a_job_in_the_environment_that_is_damaged() -> None:
    for text in ("", "[]", "{", "[" * 10_000, '{"storage": "/data"}', "\udc80"):
        assert message_of(lambda text=text: Job.from_json(text)).startswith("job: ")
