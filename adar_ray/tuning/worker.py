"""Runs one trial: the worker loop of `train` in the trial's own process, or a group of Ray Train workers.

A trial is a run with its own folder, from which it resumes, no matter who starts it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from adar_ray.config import Config
from adar_ray.custom import look_in
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, TransientError, error_line, may_pass
from adar_ray.memory import keep_freed_memory
from adar_ray.storage import Folder
from adar_ray.training.build import is_sequential
from adar_ray.training.data_source import Loaded, loaded_data, local_data
from adar_ray.training.footprint import check_memory
from adar_ray.training.loop import fit
from adar_ray.training.records import EpochRecord, Record
from adar_ray.training.run import CHECKPOINTS, CONFIG, METRICS, Run, read_epochs
from adar_ray.training.trainer import device_of
from adar_ray.training.worker import Worker
from adar_ray.tuning.folder import Search
from adar_ray.tuning.population import IS_LAST
from adar_ray.tuning.schedulers import results

_ERROR = "error.json"


class TrialError(Record):
    """`error.json`: why a trial failed.

    Attributes:
        is_of_machine: whether the machine is to blame, such as its full disk, and not the trial.
    """

    error: str
    is_of_machine: bool = False


def run_trial(
    config: dict[str, Any], search: Search, dataset: Dataset, loaded: dict[bool, Loaded], modules: list[str]
) -> None:
    """What Ray Tune runs for each trial; reports what `results` says after every epoch.

    Args:
        config: the trial's `values`. Its number is the trial's name, because a trial of a population takes
            over the configuration of another.
        loaded: the rows of the dataset, by whether the model is sequential; empty if they are streamed.
        modules: folders that may hold custom components.
    """
    keep_freed_memory()
    look_in(modules)
    number = int(tune.get_context().get_trial_name())
    with _errors_written(search.trial_folder(number)):
        _train(number, config["values"], search, dataset, loaded)


def _train(
    number: int, values: dict[str, Any], search: Search, dataset: Dataset, loaded: dict[bool, Loaded]
) -> None:
    run = _open(search, dataset, number, values, tune.get_checkpoint())
    run = dataclasses.replace(run, lease=search.lease)
    check_memory(run.config, dataset, 0 if search.workers == 1 else search.workers)
    curve = [value_of(record, search.space.metric) for record in run.epochs()]
    keeps_weights, limits = search.space.scheduler.name == "pbt", run.config.train

    def report(record: EpochRecord) -> None:
        curve[record.epoch - 1 :] = [value_of(record, search.space.metric)]
        result = results(curve, search.space.mode)[-1]
        result[IS_LAST] = record.is_last(limits.epochs, limits.patience)
        if not keeps_weights:
            tune.report(result)
            return
        with tempfile.TemporaryDirectory() as scratch:
            run.copy_checkpoint(Folder.at(scratch), record.epoch)
            Path(scratch, METRICS).write_bytes(run.folder.read_bytes(METRICS))
            tune.report(result, checkpoint=tune.Checkpoint.from_directory(scratch))

    if curve and not tune.get_checkpoint():  # an interrupted trial may not have reported its last epoch
        report(run.epochs()[-1])
    if search.workers > 1:
        from adar_ray.training.ray_workers import fit_on_workers

        fit_on_workers(run, dataset, report, lambda epoch, step, steps: None, lambda: False)
        return
    rows, worker = loaded.get(is_sequential(run.config)), Worker(device=device_of(run.config))
    data = loaded_data(run.config, rows) if rows else local_data(run.config, dataset, worker)
    fit(run, data, worker, report)


def value_of(record: EpochRecord, metric: str) -> float:
    """The metric in a line of `metrics.jsonl`; all but the loss are validation metrics.

    Raises:
        AdarError: it is not there, although a search refuses a dataset without validation interactions.
    """
    if metric == "loss":
        return record.loss
    if record.valid is None or metric not in record.valid:
        raise AdarError(f"{METRICS} of a trial: epoch {record.epoch} has no {metric}; restore the file")
    return record.valid[metric]


def _open(
    search: Search, dataset: Dataset, number: int, values: dict[str, Any], checkpoint: tune.Checkpoint | None
) -> Run:
    """The trial's run: as it was left, or new, or with the weights of another trial under its own values."""
    folder, config = search.trial_folder(number), search.config(values)
    if not folder.exists(CONFIG):
        return _begin(search, folder, config, dataset)
    run = Run.open(folder.address, trust=True)  # if it names other code than the search, it begins anew
    if run.config.used() != config.used():
        run = _begin(search, folder, config, dataset)
    if checkpoint:
        with checkpoint.as_directory() as taken:
            mine, others = run.epochs(), read_epochs(Folder.at(taken))
            # After a takeover Ray may use a checkpoint's folder again and only add to it: there may be later
            # epochs in it.
            Run(Folder.at(taken), run.config, run.info).copy_checkpoint(run.folder, len(others))
            # The other trial may be further; its epochs led to these weights.
            run.write_epochs(mine + others[len(mine) :])
    return run


def _begin(search: Search, folder: Folder, config: Config, dataset: Dataset) -> Run:
    run = Run.begin(folder, config, dataset, search.workers)
    run.write_tracker_parents(search.tracker_ids())
    return run


@contextlib.contextmanager
def _errors_written(folder: Folder) -> Iterator[None]:
    """Write down what goes wrong in the trial, in one line, for the search to read."""
    if folder.exists(_ERROR):  # of an earlier try
        folder.delete(_ERROR)
    try:
        yield
    except Exception as error:
        text = str(error).partition("\n")[0] if isinstance(error, AdarError) else error_line(error)
        folder.write_record(_ERROR, TrialError(error=text, is_of_machine=_is_of_machine(error)))
        raise


def _is_of_machine(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, AdarError) else error
    return isinstance(error, TransientError) or (isinstance(cause, OSError) and may_pass(error))


def read_error(folder: Folder) -> TrialError:
    """Why the trial failed."""
    if not folder.exists(_ERROR):
        return TrialError(error="the trial's process died")
    return folder.read_record(_ERROR, TrialError)


def forget_weights(folder: Folder) -> None:
    """Remove what an ended trial would continue from: many trials would fill a disk."""
    folder.folder(CHECKPOINTS).remove()
