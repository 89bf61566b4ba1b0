"""Ray Train workers that train a run, and the driver that follows them and goes on when some are lost."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ray.exceptions
import ray.train
import torch
from ray.train.v2.api.exceptions import TrainingFailedError

from adar_ray.config import TrainConfig
from adar_ray.custom import search_path
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, TerminatedError, TransientError, counted
from adar_ray.outputs import new_scratch
from adar_ray.process import check_threads, environment_kept
from adar_ray.ray_address import joins_cluster
from adar_ray.ray_session import Need, check_room, count_room, is_connected, leaving_nodes, ray_session
from adar_ray.training.data_source import keeps_data
from adar_ray.training.loop import OnEpoch, OnStep
from adar_ray.training.ray_failures import cause_of
from adar_ray.training.ray_trainer import Trainer
from adar_ray.training.ray_worker import STOP, train_worker
from adar_ray.training.records import EpochRecord, Place, StepProgress
from adar_ray.training.run import CHECKPOINTS, PROGRESS, Run
from adar_ray.waiting import waiting
from adar_ray.workers import WorkerRange

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between looks at the cluster
GROW_SECONDS = 60.0  # before workers are stopped because more have room
SETTLE_SECONDS = 5.0  # for the room of workers that have ended to become free
MOST_FAILURES = 3


def needs_of_worker(train: TrainConfig) -> list[Need]:
    """What a worker reserves. A GPU that is used only where there is one is not needed."""
    needs = [Need("CPU", train.threads, f"train.threads={train.threads}")]
    gpus = Need("GPU", train.gpus, "train.device=cuda")
    return [*needs, gpus] if train.device == "cuda" else needs


def check_workers(train: TrainConfig, asked: WorkerRange) -> None:
    """Refuses workers that Ray could never place, before anything is written.

    Connects to the cluster if there is one. A Ray that starts on this machine has the machine's GPUs, and as
    many CPUs as workers ask for.

    Raises:
        AdarError: what they ask for, and what there is.
    """
    workers = asked.least
    if train.gpus < 1 and asked.most > 1 and train.device != "cpu":
        raise AdarError(
            f"train.gpus={train.gpus:g}: several workers need a GPU each, because NCCL cannot connect two "
            "on the same one; set train.gpus=1, or --workers 1"
        )
    if joins_cluster():
        with ray_session(workers * train.threads):
            check_room(needs_of_worker(train), workers, "--workers")
        return
    check_threads(train.threads)
    gpus = torch.cuda.device_count()
    if train.device == "cuda" and gpus < workers:
        raise AdarError(
            f"train.device=cuda: {counted(workers, 'worker')} with a GPU each, and torch finds {gpus} on "
            "this machine; set train.device=cpu, or lower --workers"
        )


def fit_on_workers(
    run: Run, dataset: Dataset, on_epoch: OnEpoch, on_step: OnStep, should_stop: Callable[[], bool]
) -> None:
    """Trains as `loop.fit` does, on as many Ray Train workers as the run asks for and there is room for.

    When workers or their machines die, training goes on from the last checkpoint with new ones.

    Raises:
        TerminatedError: `should_stop` returned True, and the workers have saved.
        AdarError: a worker raised it; or workers died again and again, or the cluster cannot hold them.
    """
    train, goes_on = run.config.train, joins_cluster()
    asked = WorkerRange.parse(run.info.workers)
    with _followed(run, on_epoch, on_step) as has_failed, ray_session(asked.least * train.threads):

        def must_stop() -> bool:
            return should_stop() or has_failed()

        check_room(needs_of_worker(train), asked.least, "--workers")
        _Driver(run, dataset, asked, reserved_by_worker(train, asked.least), goes_on, must_stop).train()


def reserved_by_worker(train: TrainConfig, workers: int) -> dict[str, float]:
    """What each worker reserves. With `train.device=auto` they have GPUs if there is one for each."""
    use_gpu = train.device == "cuda" or (
        train.device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers * train.gpus
    )
    return {"CPU": float(train.threads)} | ({"GPU": train.gpus} if use_gpu else {})


@dataclass
class _Driver:
    """Starts workers, and others when those cannot go on.

    Attributes:
        each: what a worker reserves.
        goes_on: whether Ray goes on after the training.
        should_stop: whether training has to save and stop.
        number: of the workers that train, or that trained last.
        reason: why these stop before the end, so that others go on; "" if they do not.
    """

    run: Run
    dataset: Dataset
    asked: WorkerRange
    each: dict[str, float]
    goes_on: bool
    should_stop: Callable[[], bool]
    number: int = 0
    reason: str = ""

    def train(self) -> None:
        reached, failures = None, 0
        while True:
            self._choose_number(reached)
            self.reason, failure = "", None
            try:
                self._run_workers()
            except TransientError as error:
                if isinstance(error, TerminatedError) or self.should_stop() or not is_connected():
                    raise
                self.reason, failure = str(error), error
            if not self.reason:
                return
            before, reached = reached, self._reached()
            failures = 0 if failure is None else failures + 1 if reached == before else 1
            if failures == MOST_FAILURES:
                raise TransientError(
                    f"{failure}; training stops: {failures} such failures without a checkpoint between them"
                ) from failure

    def _reached(self) -> Place:
        """The point of the training that workers go on from."""
        state = self.run.newest_checkpoint()
        return state.place if state else (0, 0)

    def _choose_number(self, reached: Place | None) -> None:
        """Chooses as many workers as there is room for, and says so unless all is as it was asked for."""
        least, most = self.asked
        deadline = time.monotonic() + SETTLE_SECONDS
        room = most if least == most else count_room(self.each)
        # The room of workers before these may become free in a moment.
        while room < most and self.number and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            room = count_room(self.each)
        self.number = max(least, min(room, most))
        workers = f"with {counted(self.number, 'worker')}"
        if reached is not None:
            step = f", step {reached[1]}" if reached[1] else ""
            logger.warning("%s; going on from epoch %d%s %s", self.reason, reached[0] + 1, step, workers)
        elif self.number < most:
            logger.warning("there is no room for %d workers; training %s", most, workers)

    def _run_workers(self) -> None:
        """Trains until the end, or until others have to go on."""
        run, use_gpu = self.run, "GPU" in self.each
        keeps = keeps_data(run.config, self.dataset, self.number)
        _remove(run, STOP, PROGRESS)
        # Ray would resume a run of the same name from files of its own. RUN/checkpoints is what resumes here,
        # so every start has a new name, and the files that Ray leaves are removed.
        scratch = new_scratch(run.folder.folder(CHECKPOINTS))
        trainer = Trainer(
            train_worker,
            train_loop_config={
                "run": run.folder.address,
                "lease": run.lease,
                "gpu": use_gpu,
                "keeps": keeps,
                "modules": search_path(),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.number, use_gpu=use_gpu, resources_per_worker=self.each
            ),
            run_config=ray.train.RunConfig(
                name=scratch.path.rpartition("/")[2],
                storage_filesystem=run.folder.filesystem,
                storage_path=run.folder.join(CHECKPOINTS),
            ),
            goes_on=self.goes_on,
            shares=self.goes_on or not keeps,
        )
        # Ray Train asks its workers for news every two seconds by default, which small runs would spend
        # waiting. It would end workers on a machine that leaves before all of them have saved.
        variables = {
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        }
        try:
            with environment_kept(**variables), waiting(self._wanted_room), self._watched():
                trainer.fit()
        except (TrainingFailedError, ray.exceptions.RayActorError) as error:
            cause = cause_of(error)
            if not (self.reason and isinstance(cause, TerminatedError)):
                raise cause from error
        finally:
            with contextlib.suppress(OSError):
                scratch.remove()
                _remove(run, STOP)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Meanwhile a thread asks the workers to save and stop if they have to."""
        ended = threading.Event()

        def watch() -> None:
            began = time.monotonic()
            while not ended.wait(LOOK_SECONDS):
                with contextlib.suppress(OSError, ray.exceptions.RayError):
                    wants = self.should_stop() or self._wants_others(time.monotonic() - began)
                    if wants and not ended.is_set():
                        return self.run.folder.write_bytes(STOP, b"{}\n")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(1)  # a head that has died never answers

    def _wants_others(self, seconds: float) -> bool:
        """Whether other workers have to take over from these, which began this many seconds ago."""
        if self._machines() & leaving_nodes():
            self.reason = "a machine is about to be taken away"
        elif self.number < self.asked.most and seconds >= GROW_SECONDS and self.run.progress() is not None:
            # These train, so what is free is not meant for them.
            self.reason = "there is room for more workers" if count_room(self.each) else ""
        return bool(self.reason)

    def _machines(self) -> set[str]:
        """The ids of the machines where workers that reserve as much as these are placed."""
        return {
            node
            for group in ray.util.placement_group_table().values()
            if group["state"] == "CREATED" and self.each in group["bundles"].values()
            for node in group["bundles_to_node_id"].values()
        }

    def _wanted_room(self) -> str | None:
        """What workers that have not been placed yet wait for."""
        if self.run.progress() is not None:
            return None
        for group in ray.util.placement_group_table().values():
            if group["state"] == "PENDING" and list(group["bundles"].values()) == [self.each] * self.number:
                free = ray.available_resources()
                each = " and ".join(counted(amount, name) for name, amount in self.each.items())
                left = " and ".join(counted(free.get(name, 0), name) for name in self.each)
                return f"room for {counted(self.number, 'worker')} with {each} each; free: {left}"
        return None


def _remove(run: Run, *names: str) -> None:
    for name in names:
        if run.folder.exists(name):
            run.folder.delete(name)


@contextlib.contextmanager
def _followed(run: Run, on_epoch: OnEpoch, on_step: OnStep) -> Iterator[Callable[[], bool]]:
    """Calls back with the epochs and steps that workers, in other processes, write into the run folder.

    Yields whether a callback has raised. Training then has to stop, and what was raised is raised at the end.
    """
    told = len(run.epochs())
    stop = threading.Event()
    raised: list[BaseException] = []

    def tell_news(epochs: list[EpochRecord], progress: StepProgress | None) -> None:
        nonlocal told
        if progress is not None and len(epochs) == told:
            on_step(progress.epoch, progress.step, progress.steps)
        for record in epochs[told:]:
            told += 1
            on_epoch(record)

    def follow() -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                news = run.epochs(), run.progress()
            except (OSError, AdarError):  # an object store replaced a file while it was read
                continue
            try:
                tell_news(*news)
            except BaseException as error:
                return raised.append(error)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield lambda: bool(raised)
    except TerminatedError:
        if raised:
            raise raised[0] from None
        raise
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]
    tell_news(run.epochs(), run.progress())
