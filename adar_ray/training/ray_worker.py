"""What runs in each Ray Train worker: the training loop, connected to those of the other workers."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import ray.train
import torch
import torch.distributed as dist
from ray.train.collective import broadcast_from_rank_zero

from adar_ray.custom import look_in
from adar_ray.data.stream import streamed_chunks
from adar_ray.memory import keep_freed_memory
from adar_ray.ray_session import quiet_and_ordered_data
from adar_ray.training.data_source import local_data, streamed_data, training_rows
from adar_ray.training.loop import fit
from adar_ray.training.ray_metrics import RunGauges
from adar_ray.training.records import EpochRecord, StepProgress
from adar_ray.training.run import Run
from adar_ray.training.worker import Worker

STOP = "stop.json"  # in the run folder: the driver asks the workers to save and stop
PROGRESS_SECONDS = 2.0
SILENCE = timedelta(minutes=30)  # of a worker, after which the others give up

P = ParamSpec("P")
T = TypeVar("T")


def train_worker(arguments: dict[str, Any]) -> None:
    """Trains a run.

    Args:
        arguments: the `run` folder and its `lease`; whether the worker uses a `gpu` and `keeps` its rows in
            memory; the folders with `modules`.
    """
    keep_freed_memory()
    look_in(arguments["modules"])
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), _device(arguments["gpu"]))
    run = dataclasses.replace(Run.open(arguments["run"], trust=True), lease=arguments["lease"])
    config, dataset = run.config, run.dataset()
    if arguments["keeps"]:
        data = local_data(config, dataset, worker)
    else:
        rows = training_rows(config, dataset, worker)
        data = streamed_data(config, rows, streamed_chunks(rows, config.train.epochs))

    gauges = RunGauges(run)

    def write_progress(epoch: int, step: int, steps: int) -> None:
        run.write_progress(StepProgress(epoch=epoch, step=step, steps=steps))
        gauges.on_step(epoch, step, steps)

    def report(record: EpochRecord) -> None:
        if worker.rank == 0:
            gauges.on_epoch(record)
        ray.train.report(record.to_dict())

    def is_asked_to_stop() -> bool:
        try:
            return worker.rank == 0 and run.folder.exists(STOP)
        except OSError:  # the storage may be unreachable for a moment
            return False

    on_step = _at_most_every(PROGRESS_SECONDS, write_progress)
    looks = _at_most_every(PROGRESS_SECONDS, is_asked_to_stop)
    with quiet_and_ordered_data(), _connected(worker):
        fit(run, data, worker, report, on_step, lambda: bool(looks()))


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


def _at_most_every(seconds: float, call: Callable[P, T]) -> Callable[P, T | None]:
    """Limits how often a fast loop makes a slow call, such as writing a file; None when it is left out."""
    last = time.monotonic()

    def limited(*args: P.args, **arguments: P.kwargs) -> T | None:
        nonlocal last
        if time.monotonic() - last < seconds:
            return None
        result = call(*args, **arguments)
        last = time.monotonic()
        return result

    return limited
