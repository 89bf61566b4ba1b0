"""Runs that are tracked: by a real MLflow server, asked over its REST API, and by W&B offline."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from adar_ray import evaluate, resume, train, tune
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.run import Run
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import resume_search
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import best_of
from tests.calling import caller
from tests.training.test_train import stop_after

SECRET = "a" * 20 + "5ec2e7" + "b" * 14
QUICK = {
    "model": {"name": "mf", "embedding_dim": 8},
    "sampler": {"name": "uniform"},
    "train": {"epochs": 3, "batch_size": 1024, "device": "cpu"},
}


def needs(module: str) -> pytest.MarkDecorator:
    is_there = importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not is_there, reason=f"{module} is not installed: `make test-trackers`")


def quick(tracker: str, *settings: str) -> Config:
    return load_config(values=QUICK, settings=[f"train.callbacks=[{tracker}]", *settings])


def searched(tracker: str) -> Space:
    base = QUICK | {"train": QUICK["train"] | {"callbacks": [tracker]}}
    content = {"base": base, "parameters": {"optimizer.lr": {"choice": [0.001, 0.01]}}}
    return Space.from_mapping(content | {"scheduler": {"name": "none"}, "search": {"algorithm": "grid"}}, "")


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_set_up_is_refused_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = importlib.util.find_spec

    def not_here(name: str, *more: Any) -> Any:
        return None if name == tracker else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", not_here)
    message = rf"^train.callbacks {tracker}: is not installed; install 'adar-ray\[{tracker}\]'"
    with pytest.raises(AdarError, match=message):
        train(dataset, tmp_path / "run", quick(tracker), workers=0)
    searched = {"parameters": {"adar.beta": {"choice": [0.5, 0.9]}}}
    space = Space.from_mapping(searched | {"base": {"train": {"callbacks": [tracker]}}}, "")
    with pytest.raises(AdarError, match=message):
        tune(dataset, space, tmp_path / "out")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name)
    if tracker == "mlflow":
        with pytest.raises(AdarError, match=r"^train.callbacks mlflow: set MLFLOW_TRACKING_URI"):
            train(dataset, tmp_path / "run", quick(tracker), workers=0)
    assert list(tmp_path.iterdir()) == []


class Server:
    """MLflow's REST API, spoken without its client."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        answer = requests.post(f"{self.address}/api/2.0/mlflow/{path}", json=content, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = requests.get(f"{self.address}/api/2.0/mlflow/{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        (id,) = [
            found["experiment_id"]
            for found in self.post("experiments/search", max_results=100)["experiments"]
            if found["name"] == experiment
        ]
        return self.post("runs/search", experiment_ids=[id]).get("runs", [])

    def curve(self, run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
        id = run["info"]["run_id"]
        points = self.get("metrics/get-history", run_id=id, metric_key=metric)["metrics"]
        return sorted((int(point["step"]), point["value"]) for point in points)

    def artifact(self, run: dict[str, Any], name: str) -> str:
        query = {"run_uuid": run["info"]["run_id"], "path": name}
        answer = requests.get(f"{self.address}/get-artifact", params=query, timeout=60)
        answer.raise_for_status()
        return answer.text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = os.environ.get("MLFLOW_SERVER")  # trials find it only if Ray starts after it
    if not command or not importlib.util.find_spec("mlflow"):
        pytest.skip("MLflow or its server is not installed: `make test-trackers`")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [command, "server", "--host", "127.0.0.1", "--port", port, "--workers", 1]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder]
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=folder,
            env=environment
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if requests.get(f"{address}/health", timeout=5).ok:
                    break
            except requests.ConnectionError:
                time.sleep(0.2)
        yield Server(address)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def mlflow(server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Server:
    """The server, for runs of an experiment that has the name of the test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", request.node.name)
    return server


def files_with_secret(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_mlflow_has_parameters_figures_and_files(
    mlflow: Server,
    dataset: Dataset,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(QUICK))
    out = tmp_path / "run"
    words = ["train", "--data", dataset.folder, "--out", out, "--config", tmp_path / "quick.yaml"]
    ended = caller(capfd)(*words, "--set", "train.callbacks=[mlflow]", "--workers", 0, "--json")
    assert ended.json()["epochs"] == 3
    assert SECRET not in ended.err
    test = evaluate(out)
    run = Run.open(out)
    (tracked,) = mlflow.runs(request.node.name)
    assert tracked["info"]["run_name"] == str(out)
    assert tracked["info"]["status"] == "FINISHED"
    params = {each["key"]: each["value"] for each in tracked["data"]["params"]}
    assert params["model.name"] == "mf"
    assert params["train.batch_size"] == "1024"
    assert params["run.dataset"] == dataset.folder.address
    assert mlflow.curve(tracked, "loss") == [(epoch.epoch, epoch.loss) for epoch in run.epochs()]
    curve = [(epoch.epoch, epoch.valid["ndcg@20"]) for epoch in run.epochs()]
    assert mlflow.curve(tracked, "valid/ndcg_20") == curve
    result = run.result()
    assert mlflow.curve(tracked, "best/ndcg_20") == [(result.best_epoch, result.valid["ndcg@20"])]
    assert mlflow.curve(tracked, "test/recall_50") == [(0, test.metrics["recall@50"])]
    assert yaml.safe_load(mlflow.artifact(tracked, "config.yaml")) == Folder.at(out).read_yaml("config.yaml")
    assert yaml.safe_load(mlflow.artifact(tracked, "result.json"))["epochs"] == 3
    assert files_with_secret(tmp_path) == []


def test_a_run_that_goes_on_goes_on_in_mlflow(
    mlflow: Server, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, out, quick("mlflow"), workers=0, on_epoch=stop_after(1))
    (tracked,) = mlflow.runs(request.node.name)
    assert tracked["info"]["status"] == "KILLED"
    # An epoch that was saved without having been told: the process was killed between the two.
    resume(out, settings=["train.callbacks=[]", "train.epochs=2"])
    (out / "result.json").unlink()
    shutil.rmtree(out / "model")
    run = resume(out, settings=["train.callbacks=[mlflow]", "train.epochs=4", "optimizer.lr=0.002"])
    (tracked,) = mlflow.runs(request.node.name)
    assert tracked["info"]["status"] == "FINISHED"
    assert mlflow.curve(tracked, "loss") == [(epoch.epoch, epoch.loss) for epoch in run.epochs()]
    assert [epoch for epoch, _ in mlflow.curve(tracked, "loss")] == [1, 2, 3, 4]
    resumed = yaml.safe_load(mlflow.artifact(tracked, "config.yaml"))["run"]["resumed"]
    assert resumed[-1]["changes"]["optimizer.lr"][1] == 0.002


@pytest.mark.ray
def test_trials_are_children_of_their_search_in_mlflow(
    mlflow: Server, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tune(dataset, searched("mlflow"), tmp_path / "search", trials=2)
    tracked = {run["info"]["run_name"]: run for run in mlflow.runs(request.node.name)}
    parent = tracked.pop(folder.address)
    assert {Path(name).name for name in tracked} == {"00000", "00001", "seed-0"}
    for run in tracked.values():
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        assert tags["mlflow.parentRunId"] == parent["info"]["run_id"]
    assert parent["info"]["status"] == "FINISHED"
    params = {each["key"]: each["value"] for each in parent["data"]["params"]}
    best = best_of(Search.open(folder.address).read_trials(), "max")
    assert params == {"trial": best.name, "optimizer.lr": str(best.values["optimizer.lr"])}
    assert mlflow.curve(parent, "best/ndcg_20") == [(0, best.value)]
    resume_search(folder.address)  # it is over: the same is told again
    assert len(mlflow.runs(request.node.name)) == 4


def test_mlflow_that_does_not_answer_is_one_line(
    mlflow: Server, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(AdarError, match=r"^train.callbacks mlflow: MlflowException: ") as caught:
            train(dataset, tmp_path / "run", quick("mlflow"), workers=0)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "--set 'train.callbacks=[]'" in str(caught.value)


def logged(content: bytes) -> Iterator[bytes]:
    """The records of a file `*.wandb`: after a head of 7 bytes it is a LevelDB log.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block, head, place, record = 32_768, 7, 7, b""
    while place < len(content):
        if block - place % block < head:  # too little room for a head: zeros
            place += block - place % block
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + head : place + head + size]
        place += head + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


@needs("wandb")
def test_weights_and_biases_has_settings_figures_and_a_summary(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, out, quick("wandb"), workers=0, on_epoch=stop_after(1))
    run = resume(out)
    test = evaluate(run)
    told = capfd.readouterr()
    assert told.out == ""
    assert SECRET not in told.err
    assert files_with_secret(tmp_path) == []
    ids, config, curve, summary, codes = set(), {}, {}, {}, []
    for file in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        for record in map(Record.FromString, logged(file.read_bytes())):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                assert record.run.display_name == str(out)
                assert record.run.project == "adar-ray"
            for each in [*record.config.update, *record.run.config.update]:
                config["/".join(each.nested_key) or each.key] = yaml.safe_load(each.value_json)
            if record.HasField("history"):
                items = {
                    "/".join(each.nested_key) or each.key: yaml.safe_load(each.value_json)
                    for each in record.history.item
                }
                curve[items["_step"]] = items["valid/ndcg@20"]
            for each in record.summary.update:
                summary["/".join(each.nested_key) or each.key] = yaml.safe_load(each.value_json)
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    assert ids == {run.tracker_id("wandb")}
    assert config["model.name"] == "mf"
    assert curve == {epoch.epoch: epoch.valid["ndcg@20"] for epoch in run.epochs()}
    assert summary["best/ndcg@20"] == run.result().valid["ndcg@20"]
    assert summary["test/ndcg@20"] == test.metrics["ndcg@20"]
    assert codes == [1, 0, 0]


@needs("wandb")
@pytest.mark.ray
def test_trials_are_a_group_of_weights_and_biases(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tune(dataset, searched("wandb"), tmp_path / "search", trials=2)
    groups, best = {}, {}
    for file in (tmp_path / "search").rglob("*.wandb"):
        for record in map(Record.FromString, logged(file.read_bytes())):
            if record.HasField("run"):
                groups[record.run.display_name] = record.run.run_group
            for each in record.summary.update if file.parents[2].name == "search" else ():
                best["/".join(each.nested_key) or each.key] = yaml.safe_load(each.value_json)
    (group,) = set(groups.values())
    assert group.startswith(f"{folder.address} ")
    assert {Path(name).name for name in groups} == {"search", "00000", "00001", "seed-0"}
    trials = Search.open(folder.address).read_trials()
    assert best["best/ndcg@20"] == best_of(trials, "max").value
    train(dataset, tmp_path / "run", quick("wandb"), workers=0)  # the library's process is still there
