"""Sources, datasets, runs and results on an object store: an S3 server on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pyarrow.parquet as pq
import pytest

from adar_ray.cli import checks
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.documents import to_record
from adar_ray.errors import AdarError
from adar_ray.inference.evaluate import evaluate
from adar_ray.inference.export import export
from adar_ray.inference.recommend import recommend
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from adar_ray.training.trainer import resume, train

BUCKET = "interactions"


@pytest.fixture(scope="module")
def s3(ray_cluster: None) -> Iterator[object]:
    """A client of the server, to look at the objects without the code under test."""
    moto_server = pytest.importorskip("moto.server", reason="moto[s3,server] is not installed")
    boto3 = pytest.importorskip("boto3")
    # Ray was started with this address: its workers look for S3 there.
    port = urlparse(os.environ["AWS_ENDPOINT_URL"]).port
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


def objects(s3, prefix: str) -> dict[str, bytes]:
    """All objects under a prefix, without the empty ones that stand for folders."""
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    keys = [entry["Key"] for entry in listed if not entry["Key"].endswith("/")]
    return {key.removeprefix(prefix): s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def source(s3, hand_made: Path) -> str:
    s3.upload_file(str(hand_made), BUCKET, "sources/hand-made.csv")
    return f"s3://{BUCKET}/sources/hand-made.csv"


@pytest.fixture(scope="module")
def data(source: str) -> Dataset:
    return prepare(source, f"s3://{BUCKET}/data/hand-made")


@pytest.fixture(scope="module")
def config():
    return load_config(
        settings=["train.epochs=3", "model.embedding_dim=8", "adar.pool=8", "train.device=cpu"]
    )


@pytest.fixture(scope="module")
def run(data: Dataset, config) -> Run:
    return train(data.folder.address, f"s3://{BUCKET}/runs/whole", config, workers=0)


def test_a_dataset_is_the_same_as_on_disk(s3, data: Dataset, hand_made: Path, tmp_path: Path) -> None:
    prepare(hand_made, tmp_path / "data")
    on_disk = {
        str(p.relative_to(tmp_path / "data")): p for p in (tmp_path / "data").rglob("*") if p.is_file()
    }
    stored = objects(s3, "data/hand-made/")
    assert stored.keys() == on_disk.keys()
    for name in stored.keys() - {"dataset.json"}:
        assert stored[name] == on_disk[name].read_bytes()
    assert stored["dataset.json"] == to_record(data.manifest.model_dump())
    assert data.manifest.counts.interactions == 13


def test_a_folder_of_sources(s3, hand_made: Path) -> None:
    header, *rows = hand_made.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((rows[:6], rows[6:])):
        text = header + "".join(part)
        s3.put_object(Bucket=BUCKET, Key=f"folder/part-{number}.csv", Body=text.encode())
    prepare(f"s3://{BUCKET}/folder", f"s3://{BUCKET}/data/folder")
    parts, whole = objects(s3, "data/folder/"), objects(s3, "data/hand-made/")
    del parts["dataset.json"]
    assert parts == {name: whole[name] for name in parts}


def test_a_run_is_the_same_as_on_disk(s3, run: Run, data: Dataset, config, tmp_path: Path) -> None:
    train(data, tmp_path / "run", config, workers=0)
    stored = objects(s3, "runs/whole/")
    weights = "model/weights.safetensors"
    assert stored[weights] == (tmp_path / "run" / weights).read_bytes()
    assert {"config.yaml", "metrics.jsonl", "result.json"} <= stored.keys()
    assert "progress.json" not in stored


def test_a_run_resumes(s3, run: Run, data: Dataset, config) -> None:
    def stop(record: dict) -> None:
        if record.epoch == 1:
            raise KeyboardInterrupt

    address = f"s3://{BUCKET}/runs/stopped"
    with pytest.raises(KeyboardInterrupt):
        train(data, address, config, workers=0, on_epoch=stop)
    assert "result.json" not in objects(s3, "runs/stopped/")
    with pytest.raises(AdarError, match=f"adar-ray train --resume {address}"):
        train(data, address, config, workers=0)
    resume(address)
    weights = "model/weights.safetensors"
    assert objects(s3, "runs/stopped/")[weights] == objects(s3, "runs/whole/")[weights]


def test_a_run_has_one_writer(s3, run: Run, data: Dataset, config, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"s3://{BUCKET}/runs/contested"

    def contest(record: EpochRecord) -> None:
        with pytest.raises(AdarError, match=f"in use by process {os.getpid()}"):
            resume(address)
        if record.epoch == 2:
            held = json.loads(objects(s3, "runs/contested/")["lease.json"])
            taken = {**held, "id": "another", "pid": 1, "host": "far", "machine": "far"}
            del taken["sha256"]
            s3.put_object(Bucket=BUCKET, Key="runs/contested/lease.json", Body=to_record(taken))

    with pytest.raises(AdarError, match=r"process 1 on far, .* has taken it over"):
        train(data, address, config, workers=0, on_epoch=contest)
    assert len(objects(s3, "runs/contested/")["metrics.jsonl"].splitlines()) == 2
    monkeypatch.setattr("adar_ray.lease.EXPIRY_SECONDS", 2.0)
    resume(address)
    found, weights = objects(s3, "runs/contested/"), "model/weights.safetensors"
    assert found[weights] == objects(s3, "runs/whole/")[weights]
    assert "lease.json" not in found


HOLD = """
import sys, time
from adar_ray.errors import AdarError
from adar_ray.lease import hold
from adar_ray.storage import Folder

folder = Folder.at(sys.argv[1])
folder.exists()  # whatever has to be loaded is
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold(folder) as lease:
        time.sleep(3)
        lease.check()
        folder.write_bytes(f"written by {sys.argv[2]}", b"")
except AdarError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("time", range(3))
def test_of_processes_that_start_at_the_same_moment_one_writes(s3, time: int) -> None:
    """There is no conditional write through pyarrow: each writes the lease, waits, and reads whose it is."""
    address = f"s3://{BUCKET}/runs/at-once-{time}"
    command = [sys.executable, "-c", HOLD, address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, str(number)], **pipes) for number in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    (winner,) = [number for number, text in enumerate(said) if not text]
    assert list(objects(s3, f"runs/at-once-{time}/")) == [f"written by {winner}"]
    for text in said[:winner] + said[winner + 1 :]:
        (line,) = text.splitlines()
        assert line.startswith(f"{address}: in use by process {started[winner].pid} ")


def test_what_a_run_replaces_stays_until_it_is_finished(s3, data: Dataset, config) -> None:
    address = f"s3://{BUCKET}/runs/replaced"
    train(data, address, config, workers=0)
    old = objects(s3, "runs/replaced/")

    def fail(epoch: int, step: int, steps: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(data, address, config, workers=0, replace=True, on_step=fail)
    assert objects(s3, "runs/replaced/") == old
    train(
        data,
        address,
        config,
        workers=0,
        replace=True,
        on_epoch=lambda record: objects(s3, "runs/replaced/replaced/") == old or pytest.fail("gone"),
    )
    assert objects(s3, "runs/replaced/").keys() == old.keys()


def test_evaluate_recommend_export(s3, run: Run) -> None:
    found = evaluate(f"s3://{BUCKET}/runs/whole", "test", [3])
    assert objects(s3, "runs/whole/evaluation/")["test.json"] == to_record(found.model_dump())
    assert found.users == 3

    recommend(run, f"s3://{BUCKET}/top", 2, users=["日本", "ann"])
    assert objects(s3, "top/").keys() == {"00000.parquet", "_recommendations.json"}
    part = objects(s3, "top/")["00000.parquet"]
    rows = pq.read_table(io.BytesIO(part)).to_pylist()
    assert [(row["user"], row["rank"]) for row in rows] == [("日本", 1), ("日本", 2), ("ann", 1), ("ann", 2)]
    assert {row["item"] for row in rows if row["user"] == "ann"} <= {"10", "d", "Ä"}

    export(run, f"s3://{BUCKET}/vectors")
    assert objects(s3, "vectors/").keys() == {"users.parquet", "items.parquet", "export.json"}


def test_what_exists_is_refused_or_replaced(s3, source: str, data: Dataset) -> None:
    before = objects(s3, "data/hand-made/")
    with pytest.raises(AdarError, match="--replace"):
        prepare(source, data.folder.address)
    assert objects(s3, "data/hand-made/") == before
    s3.put_object(Bucket=BUCKET, Key="data/replaced/dataset.json", Body=to_record({}))
    s3.put_object(Bucket=BUCKET, Key="data/replaced/train/00000.parquet", Body=b"old")
    s3.put_object(Bucket=BUCKET, Key="data/replaced/train/00077.parquet", Body=b"old")
    prepare(source, f"s3://{BUCKET}/data/replaced", replace=True)
    assert objects(s3, "data/replaced/") == before


def test_what_is_replaced_stays_until_the_new_is_complete(s3, source: str, data: Dataset) -> None:
    address, seen = f"s3://{BUCKET}/data/twice", []

    def look(stage: str, rows: int) -> None:
        seen.append(sorted(name for name in objects(s3, "data/twice/") if not name.startswith(".")))

    prepare(source, address)
    before = objects(s3, "data/twice/")
    prepare(source, address, name="other", replace=True, on_progress=look)
    assert seen
    assert all(names == sorted(before) for names in seen)
    after = objects(s3, "data/twice/")
    assert json.loads(after.pop("dataset.json"))["name"] == "other"
    assert after == {name: before[name] for name in after}


def test_of_two_at_once_the_later_one_is_refused(s3, source: str) -> None:
    address = f"s3://{BUCKET}/data/both"

    def meanwhile(stage: str, rows: int) -> None:
        if not objects(s3, "data/both/dataset.json"):
            prepare(source, address, name="quick")

    with pytest.raises(AdarError, match="data/both: already exists"):
        prepare(source, address, name="slow", on_progress=meanwhile)
    assert json.loads(objects(s3, "data/both/")["dataset.json"])["name"] == "quick"
    assert not [name for name in objects(s3, "data/both/") if "partial" in name]


def test_keys_of_all_kinds(s3, source: str, config) -> None:
    """Workers, in other processes, and a search find a place whatever characters its key has."""
    place = "über all/try#1 100%+%20"
    s3.copy_object(Bucket=BUCKET, Key=f"{place}/pairs.csv", CopySource=f"{BUCKET}/sources/hand-made.csv")
    data = prepare(f"s3://{BUCKET}/{place}/pairs.csv", f"s3://{BUCKET}/{place}/data?region=us-east-1")
    assert "dataset.json" in objects(s3, f"{place}/data/")
    assert prepare(f"s3://{BUCKET}/{place}/*.csv", f"s3://{BUCKET}/{place}/glob").n_users == data.n_users
    run = train(data.folder.address, f"s3://{BUCKET}/{place}/run", config, workers=1)
    assert evaluate(run.folder.address, "test", [3]).users == 3
    left = {name.partition("/")[0] for name in objects(s3, f"{place}/run/")}
    assert left == {"checkpoints", "config.yaml", "evaluation", "metrics.jsonl", "model", "result.json"}
    assert not objects(s3, "über all/try/")


def test_nothing_is_left_of_what_failed(s3, source: str) -> None:
    with pytest.raises(AdarError, match="filtering leaves nothing"):
        prepare(source, f"s3://{BUCKET}/data/failed", core=100)
    assert not objects(s3, "data/failed/")


def test_missing_addresses(s3) -> None:
    with pytest.raises(AdarError, match=f"s3://{BUCKET}/nowhere.csv") as caught:
        prepare(f"s3://{BUCKET}/nowhere.csv", f"s3://{BUCKET}/data/nowhere")
    assert "\n" not in str(caught.value)
    with pytest.raises(AdarError, match="is not a dataset"):
        Dataset.open(f"s3://{BUCKET}/nowhere")
    with pytest.raises(AdarError, match="is not a run folder"):
        Run.open(f"s3://{BUCKET}/nowhere")


def test_doctor_checks_a_bucket_and_leaves_nothing(s3) -> None:
    assert checks.storage(f"s3://{BUCKET}/checked/runs").status == "ok"
    assert not objects(s3, "checked/")
    finding = checks.storage("s3://nobody-has-this/runs")
    assert finding.status == "failed"
    assert "check the address" in finding.message
