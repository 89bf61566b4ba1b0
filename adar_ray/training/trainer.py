"""Trains a run from start to finish, in this process or on Ray Train workers that Ray Data feeds."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adar_ray.config import (
    Config,
    check_setting_list,
    is_structural,
    load_config,
    note_on_unused,
    with_settings,
)
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, ComponentError, counted
from adar_ray.lease import Lease, hold, read_holder
from adar_ray.limits import check_functions
from adar_ray.outputs import forget_replaced, put_back
from adar_ray.process import check_threads, sigterm_noticed
from adar_ray.ray_address import joins_cluster
from adar_ray.training.build import check_components, check_features, is_sequential
from adar_ray.training.callbacks import check_callbacks
from adar_ray.training.data_source import local_data, training_kind
from adar_ray.training.footprint import check_memory
from adar_ray.training.loop import OnEpoch, OnStep, fit
from adar_ray.training.records import EpochRecord, Resumption, RunResult
from adar_ray.training.run import CONFIG, EVENTS, Run
from adar_ray.training.tensorboard import EventWriter
from adar_ray.training.warm_start import initial_weights, note_on_warm_start
from adar_ray.training.worker import Worker
from adar_ray.workers import WorkerRange

OnEnd = Callable[[RunResult], None]
OnNote = Callable[[str], None]

logger = logging.getLogger(__name__)


def log_note(note: str) -> None:
    """Logs a note, as `train` and `resume` do by default."""
    logger.warning("note: %s", note)


def ignore_note(note: str) -> None:
    """Says nothing: for one of many runs, with each of which the same notes would come."""


def train(
    data: str | Path | Dataset,
    out: str | Path,
    config: Config | None = None,
    *,
    workers: int | str | None = None,
    init_from: str | Path | Run | None = None,
    trust: bool = False,
    replace: bool = False,
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
    on_end: OnEnd = lambda result: None,
    on_note: OnNote = log_note,
) -> Run:
    """Trains a model into a new run folder.

    Args:
        data: a dataset.
        out: address of the run folder; must be empty or absent unless `replace`.
        workers: Ray Train workers; 0 trains in this process, without Ray, with the same result as 1. With a
            range such as `1:4` there are always as many as there is room for. The default is 1 if
            `RAY_ADDRESS` names a cluster, else 0.
        init_from: a run, a copy of its `model/`, or a folder of published models, at any address, whose
            weights to begin with: users and items with the same ids keep their vectors. The run needs it no
            more once it has begun. In a folder that `adar-ray publish --create` has made there may be nothing
            yet; then all weights are drawn at random.
        trust: whether `init_from` may name custom components.
        on_epoch: called with each epoch's record once the epoch is saved, while the next one trains.
        on_step: called from time to time with the epoch, the step, and the number of steps per epoch.
        on_end: called with the result once the run is finished.
        on_note: called with each line on what is likely to be a mistake in how the run is set up, and on what
            it keeps of `init_from`, before training begins. They are logged by default.

    These four are called in this process, and what they raise ends the training. `train.callbacks` names
    what is called in the process of worker 0.

    Returns:
        The finished run.
    """
    check_functions(on_epoch=on_epoch, on_step=on_step, on_end=on_end, on_note=on_note)
    run = new_run(data, out, config, workers=workers, init_from=init_from, trust=trust, replace=replace)
    return resume(run, on_epoch=on_epoch, on_step=on_step, on_end=on_end, on_note=on_note)


def new_run(
    data: str | Path | Dataset,
    out: str | Path,
    config: Config | None = None,
    *,
    workers: int | str | None = None,
    init_from: str | Path | Run | None = None,
    trust: bool = False,
    replace: bool = False,
) -> Run:
    """Writes a new run folder for `resume` to train. Takes the arguments of `train`.

    Raises:
        AdarError: the arguments do not fit together, or `out` is not empty. Nothing is written.
    """
    dataset = Dataset.open(data)
    config = load_config() if config is None else config
    if not isinstance(config, Config):
        raise AdarError(
            f"config: is a {type(config).__name__}; give what adar_ray.config.load_config returns"
        )
    asked = WorkerRange.parse(default_workers() if workers is None else workers)
    check_training(config, dataset, asked)
    initial = None if init_from is None else initial_weights(init_from, config, dataset, trust=trust)
    return Run.create(out, config, dataset, asked.asked, initial=initial, replace=replace)


def resume(
    run: str | Path | Run,
    *,
    data: str | Path | None = None,
    settings: Iterable[str] = (),
    workers: int | str | None = None,
    trust: bool = False,
    on_epoch: OnEpoch = lambda record: None,
    on_step: OnStep = lambda epoch, step, steps: None,
    on_end: OnEnd = lambda result: None,
    on_note: OnNote = log_note,
) -> Run:
    """Continues a run from its last checkpoint, with the same result as if it had never stopped.

    Returns a finished run as it is. What the arguments change is written into the run's `config.yaml`.

    Args:
        data: where the dataset is now, if it has moved.
        settings: `section.key=value`, for settings that may change on the way (see `revised`).
        workers: Ray Train workers from now on, as for `train`; the run's own number by default.
        trust: whether custom components that the folder of the run names may run.
        on_epoch, on_step, on_end, on_note: as for `train`.

    Raises:
        AdarError: it is not a run, its dataset is not there or has changed, a setting may not change, or
            another process trains it.
        TerminatedError: SIGTERM came, and where the training was is saved.
    """
    check_functions(on_epoch=on_epoch, on_step=on_step, on_end=on_end, on_note=on_note)
    check_setting_list(settings)
    settings = tuple(settings)
    before = Run.open(run, trust=trust)
    run = revised(before, settings, workers)
    if run.result() is not None:
        _tidy(run)
        return run
    with hold(run.folder) as lease:
        if run.result() is None:  # nobody has finished it meanwhile
            dataset = run.dataset(data)
            check_training(run.config, dataset, WorkerRange.parse(run.info.workers))
            run = replace(run, info=run.info.model_copy(update={"dataset": dataset.folder.address}))
            owned = replace(run, lease=lease)
            if run != before:
                _begin_epoch_anew(owned, before)
                owned.write_config()
            notes = (
                note_on_unused(settings, run.config),
                note_on_warm_start(run, dataset),
                note_on_split(run.config, dataset),
                note_on_steps(run, dataset),
            )
            for note in filter(None, notes):
                on_note(note)
            _train(owned, dataset, lease, on_epoch, on_step, on_end)
    return run


def _begin_epoch_anew(run: Run, before: Run) -> None:
    """Forgets the steps of the epoch under way if its rows come in another order or other batches now."""
    now, then = run.config.train, before.config.train
    if (now.batch_size, now.seed) != (then.batch_size, then.seed) and run.forget_steps():
        logger.warning("%s: the epoch under way begins anew, with the new batch size or seed", run.folder)


def _tidy(run: Run) -> None:
    """Removes what a process has left that was killed after it had finished the run."""
    holder = read_holder(run.folder)
    if holder is not None and holder.is_dead:
        with hold(run.folder):
            forget_replaced(run.folder)


@torch.inference_mode(False)  # whatever mode the caller is in
@torch.enable_grad()
def _train(
    run: Run, dataset: Dataset, lease: Lease, on_epoch: OnEpoch, on_step: OnStep, on_end: OnEnd
) -> None:
    try:
        logger.info("%s: training from epoch %d", run.folder, len(run.epochs()) + 1)
        with _events(run, on_epoch) as tell_epoch, sigterm_noticed() as should_stop:
            if run.info.workers:
                from adar_ray.training.ray_workers import fit_on_workers

                fit_on_workers(run, dataset, tell_epoch, on_step, should_stop)
            else:
                worker = Worker(device=device_of(run.config))
                data = local_data(run.config, dataset, worker)
                fit(run, data, worker, tell_epoch, on_step, should_stop)
    except Exception as error:
        if not run.has_progress():
            lease.check()
            is_back = put_back(run.folder, CONFIG)
            if isinstance(error, ComponentError) and run.is_new and not is_back:
                run.forget()
        raise
    result = run.outcome()
    lease.check()
    run.finish(dataset, result)
    forget_replaced(run.folder)
    logger.info("%s: finished after %d epochs", run.folder, result.epochs)
    on_end(result)


def revised(run: Run, settings: Iterable[str] = (), workers: int | str | None = None) -> Run:
    """The run as it continues with other settings and another number of workers. Writes nothing.

    Settings may change unless the weights would not fit any more, or the epochs so far would no longer be
    judged as the others are.

    Raises:
        AdarError: names the setting and says why it may not change.
    """
    config = with_settings(run.config.used(), settings)
    workers = run.info.workers if workers is None else WorkerRange.parse(workers).asked
    changes = _changes(run, config, workers)
    if not changes:
        return run
    if run.result() is not None:
        raise AdarError(
            f"{run.folder}: is finished, so nothing can change; to train on, begin a run with "
            f"--init-from {run.folder.in_shell} (in Python, init_from)"
        )
    done = len(run.epochs())
    for name in changes:
        reason = _fixed_because(name, run.config, config, done)
        if reason:
            raise AdarError(f"{run.folder}: {name} cannot change on the way ({reason}); train a new run")
    resumed = [*run.info.resumed, Resumption(epoch=done + 1, changes=changes)]
    info = run.info.model_copy(update={"workers": workers, "resumed": resumed})
    return replace(run, config=config, info=info)


def _changes(run: Run, config: Config, workers: int | str) -> dict[str, list[Any]]:
    """The old and the new value of all that is different, by `section.key`."""
    before = {"run.workers": run.info.workers, **run.config.used_by_key()}
    after = {"run.workers": workers, **config.used_by_key()}
    return {name: [before.get(name), value] for name, value in after.items() if before.get(name) != value}


def _fixed_because(name: str, before: Config, after: Config, done: int) -> str | None:
    """Why a setting may not change after `done` epochs; None if it may."""
    if name == "run.workers":
        return None
    if name.startswith("custom."):
        return "whether the weights still fit is not known"
    if is_structural(name):
        return "the weights would not fit"
    if name in ("train.metric", "train.valid_users", "model.length_power"):
        return "the epochs so far were judged by the old value"
    if name in ("loss.name", "adar.joins") and before.sampler_names() != after.sampler_names():
        return "other samplers would train"
    if name == "train.epochs" and after.train.epochs < done:
        return f"{counted(done, 'epoch is', 'epochs are')} done"
    return None


def default_workers() -> int:
    """Ray Train workers if nobody says how many."""
    return 1 if joins_cluster() else 0


def check_training(config: Config, dataset: Dataset, workers: WorkerRange) -> None:
    """Refuses training that cannot work, before anything is written.

    Raises:
        AdarError: says what does not fit together, or is not there.
    """
    if not dataset.rows("train"):
        raise AdarError(f"{dataset.folder}: has no training interactions")
    check_components(config)
    training_kind(config, dataset)  # refuses a sequential model without sequences
    check_features(config, dataset)
    check_callbacks(config)
    lanes = len(dataset.lanes.users)
    if workers.most > lanes:
        raise AdarError(
            f"--workers {workers.asked}: the dataset has {lanes} lanes of users to share; ask for fewer"
        )
    check_memory(config, dataset, workers.least)
    if workers.most:
        from adar_ray.training.ray_workers import check_workers

        check_workers(config.train, workers)
    else:
        check_threads(config.train.threads)
        device_of(config)


def note_on_steps(run: Run, dataset: Dataset) -> str | None:
    """A line for people if an epoch of the run is a single step, from which it learns little; else None."""
    kind, batch_size = training_kind(run.config, dataset), run.config.train.batch_size
    rows = int(dataset.lane_rows(kind).sum())
    if batch_size < rows:
        return None
    return (
        f"an epoch is a single step, because train.batch_size {batch_size} takes all {rows:,} training rows; "
        "lower it for more steps"
    )


def note_on_split(config: Config, dataset: Dataset) -> str | None:
    """A line for people if a sequential model has to tell what came before what it is shown; else None."""
    if not is_sequential(config) or dataset.manifest.split.protocol != "ratio":
        return None
    return (
        f"model.name {config.model.name} predicts what comes next, but the split is random: what it has to "
        "predict also comes before what it is shown; prepare with --split leave-one-out or temporal"
    )


@contextlib.contextmanager
def _events(run: Run, on_epoch: OnEpoch) -> Iterator[OnEpoch]:
    """Adds TensorBoard events to `on_epoch` if the run folder is on a local disk."""
    if not run.folder.is_local:
        yield on_epoch
        return
    events = EventWriter(Path(run.folder.path) / EVENTS, run.epochs())

    def tell(record: EpochRecord) -> None:
        events.write(record)
        on_epoch(record)

    try:
        yield tell
    finally:
        events.close()


def device_of(config: Config) -> str:
    """The device that this process trains on.

    Raises:
        AdarError: it is a GPU, and torch finds none.
    """
    device, has_gpu = config.train.device, torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise AdarError("train.device=cuda: torch finds no GPU on this machine; set train.device=cpu")
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    return device
