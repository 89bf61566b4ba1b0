"""Runs in Weights & Biases, through its own library. WANDB_API_KEY and WANDB_MODE say how."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from adar_ray.process import outliving_ray
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord, Evaluation, RunResult
from adar_ray.training.run import Run
from adar_ray.training.trackers import PROJECT, SearchEnd, address_of, check_installed, settings_of

if TYPE_CHECKING:
    import wandb

NAME = "wandb"


def check(key: str) -> None:
    """Refuses to track without the library.

    Raises:
        AdarError: says what is missing.
    """
    check_installed(key, NAME)


class WandbTracker:
    """A run's settings, its metrics by epoch, and as a summary its result and test metrics.

    A run on a disk keeps what the library writes there in its folder `wandb/`.
    """

    def __init__(self, run: Run) -> None:
        self._wandb = _opened(run)
        self._wandb.config.update(settings_of(run), allow_val_change=True)
        for record in run.epochs():  # those that an interruption has kept from coming
            if record.epoch >= self._wandb.step:
                self.on_epoch(record)

    def on_epoch(self, record: EpochRecord) -> None:
        self._wandb.log(record.figures(), step=record.epoch, commit=True)

    def on_end(self, result: RunResult | None) -> None:
        if result is not None:
            best = {f"best/{name}": value for name, value in (result.valid or {}).items()}
            self._wandb.summary.update({"best_epoch": result.best_epoch, **best})
        self._wandb.finish(exit_code=1 if result is None else 0)

    @staticmethod
    def send_evaluation(run: Run, evaluation: Evaluation) -> None:
        opened = _opened(run)
        opened.summary.update(evaluation.figures())
        opened.finish()

    @staticmethod
    def begin_search(folder: Folder, group: str | None) -> str:
        """The group that a search's trials are in: its address, and the id of the run that sums it up."""
        return group or f"{address_of(folder)} {secrets.token_hex(4)}"

    @staticmethod
    def end_search(folder: Folder, group: str, end: SearchEnd | None) -> None:
        """Sums the search up in a run of the group, once it is over."""
        if end is None:
            return
        found = _init(folder, group.rpartition(" ")[2], group, job_type="search")
        found.config.update(end.values, allow_val_change=True)
        found.summary.update(end.figures)
        found.finish()


def _opened(run: Run) -> wandb.Run:
    """The run in Weights & Biases, which begins there unless it has before."""
    run_id = run.tracker_id(NAME)
    if run_id is None:
        run_id = secrets.token_hex(4)
        run.write_tracker_id(NAME, run_id)
    return _init(run.folder, run_id, run.tracker_parent(NAME))


def _init(folder: Folder, run_id: str, group: str | None, job_type: str | None = None) -> wandb.Run:
    import wandb

    # It would also send the command line, the code's repository and all that the process prints.
    quiet = wandb.Settings(
        console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True
    )
    with outliving_ray():  # the library has one process for all runs of this one
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            resume="allow",
            name=address_of(folder),
            group=group,
            job_type=job_type,
            dir=folder.path if folder.is_local else None,
            settings=quiet,
        )
