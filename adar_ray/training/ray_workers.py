"""Ray Train workers that run the training loop on rows from Ray Data, and the driver that follows them."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.exceptions import TrainingFailedError

from adar_ray.config import TrainConfig
from adar_ray.custom import look_in, search_path
from adar_ray.data.dataset import Dataset
from adar_ray.data.stream import EpochStream, stream_epochs
from adar_ray.errors import AdarError, TransientError, one_line
from adar_ray.memory import keep_freed_memory
from adar_ray.process import check_threads, environment_kept
from adar_ray.ray_address import joins_cluster
from adar_ray.ray_session import Need, check_room, ray_session
from adar_ray.training.data_source import keeps_data, local_data, streamed_data, training_rows
from adar_ray.training.loop import OnEpoch, OnStep, Worker, fit
from adar_ray.training.ray_trainer import Trainer
from adar_ray.training.records import EpochRecord, StepProgress
from adar_ray.training.run import Run
from adar_ray.waiting import waiting

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 2.0
SILENCE = timedelta(minutes=30)  # of a worker, after which the others give up


def needs_of_worker(train: TrainConfig) -> list[Need]:
    """What a worker reserves. A GPU that is used only where there is one is not needed."""
    needs = [Need("CPU", train.threads, f"train.threads={train.threads}")]
    return [*needs, Need("GPU", 1, "train.device=cuda")] if train.device == "cuda" else needs


def check_workers(train: TrainConfig, workers: int) -> None:
    """Refuses workers that Ray could never place, before anything is written.

    Connects to the cluster if there is one. A Ray that starts on this machine has the machine's GPUs, and as
    many CPUs as workers ask for.

    Raises:
        AdarError: what they ask for, and what there is.
    """
    if joins_cluster():
        with ray_session(workers * train.threads):
            check_room(needs_of_worker(train), workers, "--workers")
        return
    check_threads(train.threads)
    gpus = torch.cuda.device_count()
    if train.device == "cuda" and gpus < workers:
        raise AdarError(
            f"train.device=cuda: {workers} workers need a GPU each, and torch finds {gpus} on this machine; "
            "set train.device=cpu, or lower --workers"
        )


def fit_on_workers(run: Run, dataset: Dataset, on_epoch: OnEpoch, on_step: OnStep) -> None:
    """Trains as `loop.fit` does, on the number of Ray Train workers that the run asks for.

    Raises:
        AdarError: a worker failed, or the cluster cannot hold the workers.
    """
    with _followed(run, on_epoch, on_step):
        _train(run, dataset)


def _train(run: Run, dataset: Dataset) -> None:
    config, workers = run.config, run.info.workers
    # The checkpoint may be one epoch behind the metrics; a worker drops what it does not need.
    first_epoch = max(1, len(run.epochs()))
    goes_on = joins_cluster()
    with ray_session(workers * config.train.threads):
        check_room(needs_of_worker(config.train), workers, "--workers")
        keeps = keeps_data(config, dataset, workers)
        # Rows that are streamed come from Ray Data, a stream for each worker's lanes.
        streams: dict[str, Any] = {}
        if not keeps:
            for rank in range(workers):
                rows = training_rows(config, dataset, Worker(rank, workers))
                streams[_stream_of(rank)] = stream_epochs(rows, first_epoch, config.train.epochs)
        use_gpu = config.train.device == "cuda" or (
            config.train.device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers
        )
        # Ray would resume a run of the same name from files of its own. RUN/checkpoints is what resumes here,
        # so every start has a new name, and the files that Ray leaves are removed.
        scratch = run.folder.folder(f"checkpoints/ray-{uuid.uuid4().hex[:8]}")
        resources = {"CPU": float(config.train.threads)} | ({"GPU": 1.0} if use_gpu else {})
        trainer = Trainer(
            _train_worker,
            train_loop_config={
                "run": run.folder.address,
                "lease": run.lease,
                "gpu": use_gpu,
                "keeps": keeps,
                "first_epoch": first_epoch,
                "modules": search_path(),
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers, use_gpu=use_gpu, resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(
                name=scratch.path.rpartition("/")[2],
                storage_filesystem=run.folder.filesystem,
                storage_path=run.folder.join("checkpoints"),
            ),
            datasets=streams,
            dataset_config=ray.train.DataConfig(datasets_to_split=[]),
            goes_on=goes_on,
        )
        # Ray Train asks its workers for news every two seconds by default, which small runs would spend
        # waiting. Only a cluster takes machines away, which Ray Train has a process watch for.
        variables = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
        if not goes_on:
            variables["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
        try:
            with (
                environment_kept(**variables),
                waiting(lambda: _wanted_room(run, resources, workers)),
            ):
                trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
        finally:
            with contextlib.suppress(OSError):
                scratch.remove()


def _wanted_room(run: Run, resources: dict[str, float], workers: int) -> str | None:
    """What workers that have not been placed yet wait for."""
    if run.progress() is not None:
        return None
    for group in ray.util.placement_group_table().values():
        if group["state"] == "PENDING" and list(group["bundles"].values()) == [resources] * workers:
            free = ray.available_resources()
            each = " and ".join(f"{amount:g} {name}s" for name, amount in resources.items())
            left = " and ".join(f"{free.get(name, 0):g} {name}s" for name in resources)
            return f"room for {workers} workers with {each} each, while {left} are free"
    return None


def _stream_of(rank: int) -> str:
    return f"train-{rank}"


def _train_worker(arguments: dict[str, Any]) -> None:
    """Runs in each Ray Train worker."""
    keep_freed_memory()
    look_in(arguments["modules"])
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), _device(arguments["gpu"]))
    run = dataclasses.replace(Run.open(arguments["run"], trust=True), lease=arguments["lease"])
    dataset = run.dataset()
    if arguments["keeps"]:
        data = local_data(run.config, dataset, worker)
    else:
        rows = training_rows(run.config, dataset, worker)
        shard = ray.train.get_dataset_shard(_stream_of(worker.rank))
        blocks = shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        stream = EpochStream(blocks, rows.chunks, arguments["first_epoch"])
        data = streamed_data(run.config, rows, stream.chunks)

    def write_progress(epoch: int, step: int, steps: int) -> None:
        run.write_progress(StepProgress(epoch=epoch, step=step, steps=steps))

    def report(record: EpochRecord) -> None:
        ray.train.report(record.to_dict())

    with _connected(worker):
        fit(run, data, worker, report, _at_most_every(PROGRESS_SECONDS, write_progress))


def _device(gpu: bool) -> str:
    """This worker's own GPU, or the CPU."""
    if not gpu:
        return "cpu"
    from ray.train.torch import get_device  # here, because it loads more of torch than a CPU needs

    device = get_device()
    torch.cuda.set_device(device)
    return str(device)


@contextlib.contextmanager
def _connected(worker: Worker) -> Iterator[None]:
    """Lets torch send tensors between workers. They meet at a store of worker 0."""
    if worker.size == 1:
        yield
        return
    store = meeting = None
    if worker.rank == 0:
        address = ray.util.get_node_ip_address()
        store = dist.TCPStore(address, 0, worker.size, is_master=True, wait_for_workers=False)
        meeting = address, store.port
    address, port = broadcast_from_rank_zero(meeting)
    dist.init_process_group(
        "gloo" if worker.device == "cpu" else "nccl",
        store=store or dist.TCPStore(address, port, worker.size),
        rank=worker.rank,
        world_size=worker.size,
        timeout=SILENCE,
    )
    yield  # after an error, workers end without waiting for each other
    dist.destroy_process_group()


def _at_most_every(seconds: float, call: OnStep) -> OnStep:
    """Limits how often a fast loop makes a slow call, such as writing a file."""
    last = time.monotonic()

    def limited(epoch: int, step: int, steps: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            call(epoch, step, steps)
            last = time.monotonic()

    return limited


def _cause(error: BaseException) -> BaseException:
    """The worker's own AdarError where that is why Ray gave up."""
    for failure in getattr(error, "worker_failures", {}).values():
        original = getattr(failure, "cause", None) or failure.__cause__ or failure
        for candidate in (failure, original):
            if isinstance(candidate, AdarError):
                return candidate
        return TransientError(f"a worker failed: {one_line(original, 400)}")
    return TransientError(f"training failed: {one_line(error, 400)}")


@contextlib.contextmanager
def _followed(run: Run, on_epoch: OnEpoch, on_step: OnStep) -> Iterator[None]:
    """Calls back with the epochs and steps that workers, in other processes, write into the run folder."""
    told = len(run.epochs())
    stop = threading.Event()

    def tell_news() -> None:
        nonlocal told
        epochs = run.epochs()
        for record in epochs[told:]:
            on_epoch(record)
        progress = run.progress() if len(epochs) == told else None
        if progress is not None:
            on_step(progress.epoch, progress.step, progress.steps)
        told = len(epochs)

    def follow() -> None:
        while not stop.wait(POLL_SECONDS):
            with contextlib.suppress(OSError):
                tell_news()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    tell_news()
