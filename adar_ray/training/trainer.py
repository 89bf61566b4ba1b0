"""A run from end to end: in this process, or over Ray Train workers fed by Ray Data."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.order import shard_order, stripe
from adar_ray.errors import AdarError, one_line
from adar_ray.training.loop import TrainingData, Worker, fit
from adar_ray.training.run import PROGRESS, Run
from adar_ray.training.tensorboard import EventWriter
from adar_ray.user_items import UserItems

KEPT_INTERACTIONS = 64_000_000  # 512 MiB of ids in each worker
POLL_SECONDS = 0.2

OnEpoch = Callable[[dict[str, Any]], None]
OnStep = Callable[[int, int, int], None]


def train(
    data: str | Path | Dataset,
    out: str | Path,
    config: Config | None = None,
    *,
    workers: int = 1,
    replace: bool = False,
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
) -> Run:
    """Trains a model into a new run folder.

    Args:
        data: a dataset.
        out: address of the run folder; must be empty or absent unless `replace`.
        workers: Ray Train workers; 0 trains in this process, without Ray, with the same result as 1.
        on_epoch: called after each epoch with its line of `metrics.jsonl`.
        on_step: called now and then with epoch, step and steps an epoch.

    Returns:
        The finished run.
    """
    dataset = Dataset.open(data)
    config = config or load_config()
    _check(config, dataset, workers)
    run = Run.create(out, config, dataset, workers, replace=replace)
    return _run_to_the_end(run, dataset, on_epoch, on_step)


def resume(
    run: str | Path,
    *,
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
) -> Run:
    """Goes on with an unfinished run after its last finished epoch, as if it had never stopped."""
    opened = Run.open(run)
    if opened.result() is not None:
        return opened
    return _run_to_the_end(opened, opened.dataset(), on_epoch, on_step)


def _check(config: Config, dataset: Dataset, workers: int) -> None:
    if not dataset.rows("train"):
        raise AdarError(f"{dataset.folder}: has no training interactions")
    if workers > 1 and config.train.batch_size % workers:
        fitting = -(-config.train.batch_size // workers) * workers
        raise AdarError(
            f"train.batch_size {config.train.batch_size} cannot be shared equally by {workers} workers; "
            f"add --set train.batch_size={fitting}"
        )


def _run_to_the_end(run: Run, dataset: Dataset, on_epoch: OnEpoch, on_step: OnStep) -> Run:
    with _events(run, on_epoch) as tell_epoch:
        if run.about["workers"]:
            with _followed(run, tell_epoch, on_step):
                _train_on_ray(run, dataset)
        else:
            data = _local_data(run.config, dataset)
            fit(run.config, data, run, Worker(device=_device(run.config)), tell_epoch, on_step)
    epochs = run.epochs()
    _, best = max((_value(record, run.config), -record["epoch"]) for record in epochs)
    best_record = epochs[-best - 1]
    run.finish(
        dataset,
        {
            "best_epoch": best_record["epoch"],
            "epochs": len(epochs),
            "valid": best_record.get("valid"),
            "train_seconds": sum(record["time"]["train_seconds"] for record in epochs),
        },
    )
    return run


@contextlib.contextmanager
def _events(run: Run, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Adds TensorBoard events to what is done after each epoch, where there is a disk to write them to."""
    if not run.folder.is_local:
        yield on_epoch
        return
    events = EventWriter(Path(run.folder.path) / "tensorboard", run.epochs())

    def tell(record: dict[str, Any]) -> None:
        events.write(record)
        on_epoch(record)

    try:
        yield tell
    finally:
        events.close()


def _value(record: dict[str, Any], config: Config) -> float:
    return record["valid"][config.train.metric] if "valid" in record else float(record["epoch"])


def _device(config: Config) -> str:
    if config.train.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.train.device


def _keeps(config: Config, dataset: Dataset) -> bool:
    if config.data.cache == "auto":
        return dataset.rows("train") <= KEPT_INTERACTIONS
    return config.data.cache == "always"


def _training_data(dataset: Dataset, train: tuple[np.ndarray, np.ndarray], stripes) -> TrainingData:
    def user_items(user: np.ndarray, item: np.ndarray) -> UserItems:
        return UserItems(torch.from_numpy(user), torch.from_numpy(item), dataset.n_users, dataset.n_items)

    return TrainingData(
        shard_rows=[shard["rows"] for shard in dataset.shards("train")],
        stripes=stripes,
        observed=user_items(*train),
        valid=user_items(*dataset.read_split("valid")),
    )


def _stripes(read_shard, n_shards: int, seed: int, worker: int, workers: int, epoch: int) -> Iterator:
    for shard in shard_order(n_shards, seed, epoch):
        yield stripe(*read_shard(shard), seed, epoch, int(shard), worker, workers)


def _kept_data(
    config: Config, dataset: Dataset, shards: list[tuple[np.ndarray, np.ndarray]], worker: int, workers: int
) -> TrainingData:
    users, items = (np.concatenate(part) for part in zip(*shards, strict=True))
    stripes = functools.partial(_stripes, shards.__getitem__, len(shards), config.train.seed, worker, workers)
    return _training_data(dataset, (users, items), stripes)


def _local_data(config: Config, dataset: Dataset) -> TrainingData:
    n_shards = len(dataset.shards("train"))
    read_shard = functools.partial(dataset.read_shard, "train")
    if _keeps(config, dataset):
        return _kept_data(config, dataset, [read_shard(shard) for shard in range(n_shards)], 0, 1)
    stripes = functools.partial(_stripes, read_shard, n_shards, config.train.seed, 0, 1)
    return _training_data(dataset, dataset.read_split("train"), stripes)


def _train_on_ray(run: Run, dataset: Dataset) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from adar_ray.data.stream import stream_epochs, stream_shards
    from adar_ray.ray_session import ray_session

    config, workers = run.config, run.about["workers"]
    # The checkpoint may be one epoch behind the metrics; a worker drops what it does not need.
    first_epoch = max(1, len(run.epochs()))
    with ray_session(workers * config.train.threads):
        keeps = _keeps(config, dataset)
        stream = (
            stream_shards(dataset)
            if keeps
            else stream_epochs(dataset, config.train.seed, first_epoch, config.train.epochs, workers)
        )
        use_gpu = config.train.device == "cuda" or (
            config.train.device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers
        )
        # Ray resumes a run of the same name by itself, from its own files. Here RUN/checkpoints is what
        # resumes, so every start has a name of its own, and what Ray leaves is removed.
        scratch = run.folder.folder(f"checkpoints/ray-{uuid.uuid4().hex[:8]}")
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"run": run.folder.address, "keeps": keeps, "first_epoch": first_epoch},
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.train.threads} | ({"GPU": 1} if use_gpu else {}),
            ),
            run_config=ray.train.RunConfig(
                name=scratch.path.rpartition("/")[2], storage_path=f"{run.folder.address}/checkpoints"
            ),
            datasets={"train": stream},
            # What is kept is kept whole: every worker gives the epoch the same order and takes its part.
            dataset_config=ray.train.DataConfig(datasets_to_split=[] if keeps else "all"),
        )
        try:
            with _interruptible():
                trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
        finally:
            with contextlib.suppress(OSError):
                scratch.remove()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt: Ray Train's own handler, which it leaves behind, exits the process."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _train_worker(arguments: dict[str, Any]) -> None:
    """What each Ray Train worker runs."""
    import ray.train
    import ray.train.torch

    from adar_ray.data.stream import EpochStream

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    run = Run.open(arguments["run"])
    dataset = run.dataset()
    shard_stream = ray.train.get_dataset_shard("train")
    blocks = shard_stream.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
    if arguments["keeps"]:
        shards = [(block["user"], block["item"]) for block in blocks]
        data = _kept_data(run.config, dataset, shards, rank, size)
    else:
        stream = EpochStream(blocks, len(dataset.shards("train")), arguments["first_epoch"])
        data = _training_data(dataset, dataset.read_split("train"), stream.stripes)
    worker = Worker(rank, size, str(ray.train.torch.get_device()))

    def write_progress(epoch: int, step: int, steps: int) -> None:
        run.folder.write_json(PROGRESS, {"epoch": epoch, "step": step, "steps": steps})

    fit(run.config, data, run, worker, ray.train.report, _at_most_every(2.0, write_progress))


def _at_most_every(seconds: float, call: OnStep) -> OnStep:
    """Spares what is slow, such as writing a file, in a loop that is fast."""
    import time

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
        return AdarError(f"a worker failed: {one_line(original, 400)}")
    return AdarError(f"training failed: {one_line(error, 400)}")


@contextlib.contextmanager
def _followed(run: Run, on_epoch: OnEpoch, on_step: OnStep) -> Iterator[None]:
    """Calls back on what the workers, elsewhere, write into the run folder."""
    told = len(run.epochs())
    stop = threading.Event()

    def tell_news() -> None:
        nonlocal told
        epochs = run.epochs()
        for record in epochs[told:]:
            on_epoch(record)
        if len(epochs) == told and run.folder.exists(PROGRESS):
            progress = run.folder.read_json(PROGRESS)
            on_step(progress["epoch"], progress["step"], progress["steps"])
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
