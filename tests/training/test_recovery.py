"""Training on workers that goes on by itself, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, TerminatedError, TransientError
from adar_ray.training import ray_workers
from adar_ray.training.ray_failures import cause_of
from adar_ray.training.ray_workers import MOST_FAILURES, POLL_SECONDS, _Driver, _followed
from adar_ray.training.records import EpochRecord, Place, RunInfo
from adar_ray.training.run import Run
from adar_ray.training.trainer import resume, train
from adar_ray.workers import WorkerRange
from tests.data.making import make_dataset

SMALL = [
    "model.name=mf",
    "model.embedding_dim=16",
    "train.batch_size=256",
    "train.device=cpu",
    "sampler.name=uniform",
]


def config(*settings: str) -> Config:
    return load_config(settings=[*SMALL, "train.epochs=4", "train.patience=99", *settings])


STREAMED = "data.cache=never", "train.batch_size=16"


def raised(error: Exception) -> Exception:
    return UserExceptionWithTraceback(error, "Traceback ...")


def died(message: str) -> Exception:
    context = ActorDiedErrorContext(
        error_message=message, class_name="W", pid=1234, node_ip_address="10.0.0.7", actor_id=b"\0" * 16
    )
    return WorkerHealthCheckFailedError("a health check failed", ActorDiedError(context))


ALONE = raised(ConnectionError("worker 2 is gone"))


@pytest.mark.parametrize(
    ("failures", "kind", "told"),
    [
        ([ALONE, raised(AdarError("a.parquet: is damaged"))], AdarError, "a.parquet: is damaged"),
        ([died("crash"), raised(AdarError("the loss is nan"))], AdarError, "the loss is nan"),
        ([raised(TerminatedError("saved"))], TerminatedError, "saved"),
        ([ALONE, died("crash")], TransientError, "a worker died (process 1234 on 10.0.0.7)"),
        (
            [died("Task was killed due to the node running low on memory.\n...")],
            TransientError,
            "a worker died (process 1234 on 10.0.0.7, out of memory)",
        ),
        (
            [died("The actor died because its node has died. Node Id: 55")],
            TransientError,
            "a worker died (its machine on 10.0.0.7 is gone)",
        ),
        (
            [ActorUnavailableError("RPC error", b"0" * 16)],
            TransientError,
            "a worker died (it no longer answers)",
        ),
        ([ALONE], TransientError, "a worker failed (ConnectionError: worker 2 is gone)"),
    ],
)
def test_what_a_failure_comes_down_to(failures: list[Exception], kind: type, told: str) -> None:
    cause = cause_of(WorkerGroupError("", dict(enumerate(failures))))
    assert type(cause) is kind
    assert str(cause) == told


def test_what_a_failure_of_the_controller_comes_down_to() -> None:
    assert str(cause_of(ControllerError(OSError("disk")))) == "a worker failed (OSError: disk)"


class Scripted(_Driver):
    """Whose workers do what a script says: `3` is to reach step 3 and fail, an error is to raise it."""

    def __init__(self, script: list[Any], should_stop: Any = lambda: False) -> None:
        super().__init__(None, None, WorkerRange(2, 2), {"CPU": 1.0}, False, should_stop)  # type: ignore[arg-type]
        self.script, self.step, self.starts = script, 0, 0

    def _reached(self) -> Place:
        return self.step // 10, self.step % 10

    def _run_workers(self) -> None:
        self.starts += 1
        what = self.script.pop(0)
        if isinstance(what, Exception):
            raise what
        if isinstance(what, str):
            self.reason = what
        elif what is not None:
            self.step = what
            raise TransientError("a worker died (process 7)")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "is_connected", lambda: True)


@pytest.mark.usefixtures("connected")
def test_goes_on_as_long_as_there_is_progress(caplog: pytest.LogCaptureFixture) -> None:
    driver = Scripted([0, 0, 10, 10, 15, 15, 16, None])
    driver.train()
    assert driver.starts == 8
    assert len(caplog.messages) == 7
    assert caplog.messages[2] == "a worker died (process 7); going on from epoch 2 with 2 workers"
    assert caplog.messages[4] == "a worker died (process 7); going on from epoch 2, step 5 with 2 workers"


@pytest.mark.usefixtures("connected")
def test_stops_after_some_failures_without_progress() -> None:
    driver = Scripted([10, *[10] * MOST_FAILURES])
    with pytest.raises(TransientError, match=r"^a worker died \(process 7\); training stops: 3 such "):
        driver.train()
    assert driver.starts == MOST_FAILURES


def test_an_error_that_lasts_stops_at_once() -> None:
    driver = Scripted([AdarError("a.parquet: is damaged")])
    with pytest.raises(AdarError, match=r"^a\.parquet: is damaged$"):
        driver.train()
    assert driver.starts == 1


def test_others_go_on_where_these_were_asked_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    driver = Scripted(["a machine is about to be taken away"] * 5 + [None])
    driver.train()
    assert driver.starts == 6
    assert "a machine is about to be taken away; going on from epoch 1 with 2 workers" in caplog.messages


def test_nobody_goes_on_after_sigterm() -> None:
    driver = Scripted([5, None], should_stop=lambda: True)
    with pytest.raises(TransientError):
        driver.train()
    assert driver.starts == 1


@pytest.mark.parametrize(
    ("room", "before", "number", "told"),
    [(9, 0, 4, False), (3, 0, 3, True), (0, 0, 2, True), (3, 4, 3, True), (0, 3, 2, True)],
)
def test_as_many_workers_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    room: int,
    before: int,
    number: int,
    told: bool,
) -> None:
    monkeypatch.setattr(ray_workers, "count_room", lambda each: room)
    monkeypatch.setattr(ray_workers, "SETTLE_SECONDS", 0)
    driver = Scripted([None])
    driver.asked, driver.number = WorkerRange(2, 4), before
    driver.train()
    assert driver.number == number
    lines = [f"there is no room for 4 workers; training with {number} workers"]
    assert caplog.messages == (lines if told else [])


def test_the_room_of_dead_workers_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([0, 1, 4])
    monkeypatch.setattr(ray_workers, "count_room", lambda each: next(room))
    driver = Scripted([None])
    driver.asked, driver.number = WorkerRange(1, 4), 3
    driver.train()
    assert driver.number == 4


@pytest.mark.parametrize(
    ("workers", "told"), [("0:2", "0:2"), ("4:1", "4:1"), ("a:b", "a:b"), ("1:65", "1:65")]
)
def test_ranges_that_cannot_be(dataset: Dataset, tmp_path: Path, workers: str, told: str) -> None:
    with pytest.raises(AdarError, match=f"^--workers {told}: "):
        train(dataset, tmp_path / "run", config(), workers=workers)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_holds_what_was_asked() -> None:
    info = {"dataset": "/d", "dataset_checksum": "0", "versions": {}}
    assert RunInfo.model_validate({**info, "workers": "1:4"}).workers == "1:4"
    for wrong in ("4:1", -1, "many", 1.5):
        with pytest.raises(ValueError, match="workers"):
            RunInfo.model_validate({**info, "workers": wrong})


# On Ray Train.


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("made"), users=70, rows_per_shard=300)


def what_counts(run: Run) -> tuple[list[Any], bytes]:
    """The metrics, and the weights."""
    weights = Path(run.folder.path, "model", "weights.safetensors").read_bytes()
    return [record.model_copy(update={"time": None}) for record in run.epochs()], weights


def left_behind(run: Path) -> set[str]:
    """What only a training that is under way has in its folder."""
    names = {*os.listdir(run), *os.listdir(run / "checkpoints")}
    return {name for name in names if name.startswith("ray-") or name == "stop.json"}


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(made: Dataset, tmp_path: Path) -> None:
    run, told = train(made, tmp_path / "run", config("train.epochs=2"), workers=0), []
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.unlink()
    with _followed(run, told.append, lambda *step: None):
        for content in (whole[:-9], whole):
            metrics.write_bytes(content)
            time.sleep(3 * POLL_SECONDS)
        assert len(told) == 2
    assert told == run.epochs()


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_changes_nothing(
    made: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import psutil  # found once Ray, which brings it, is imported

    def workers() -> set[psutil.Process]:
        # Ray's processes are this one's: another may run tests at the same time.
        found = psutil.Process().children(recursive=True)
        return {one for one in found if any("RayTrainWorker" in word for word in one.cmdline())}

    others, killed, told = workers(), [], []

    def kill(record: EpochRecord) -> None:
        told.append(record)
        if record.epoch == 1:
            victim = max(workers() - others, key=lambda worker: worker.pid)
            victim.kill()
            killed.append(victim.pid)

    settings = config(*STREAMED, "train.epochs=3")
    run = train(made, tmp_path / "run", settings, workers=2, on_epoch=kill)
    undisturbed = train(made, tmp_path / "undisturbed", settings, workers=2)
    assert what_counts(run) == what_counts(undisturbed)
    assert told == run.epochs()
    assert [f"process {killed[0]} on " in message for message in caplog.messages] == [True]
    assert not left_behind(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.usefixtures("ray_cluster")
def test_workers_save_on_sigterm_and_others_go_on(made: Dataset, tmp_path: Path) -> None:
    def terminate(record: EpochRecord) -> None:
        if record.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    handler, out = signal.getsignal(signal.SIGTERM), tmp_path / "run"
    with pytest.raises(TerminatedError, match=r"run: terminated; saved at epoch \d+, step \d+$") as caught:
        train(made, out, config(*STREAMED, "train.epochs=1000"), workers=2, on_epoch=terminate)
    assert signal.getsignal(signal.SIGTERM) is handler
    epoch, step = Run.open(out).newest_checkpoint().place
    assert str(caught.value).endswith(f"saved at epoch {epoch + 1}, step {step}")
    assert not left_behind(out)
    # The others are more or fewer: equal but for rounding.
    epochs = f"train.epochs={epoch + 1}"
    run = resume(out, workers="1:3", settings=[epochs])
    assert run.info.workers == "1:3"
    reference = train(made, tmp_path / "reference", config(*STREAMED, epochs), workers=0)
    for ours, theirs in zip(run.epochs(), reference.epochs(), strict=True):
        assert (ours.loss, *ours.valid.values()) == pytest.approx(
            (theirs.loss, *theirs.valid.values()), rel=1e-3
        )
