"""The callbacks that `train.callbacks` names: called after steps, epochs and the end of training.

They are made and called in the process of worker 0, which is this process if training needs no Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from adar_ray.config import TRACKERS, Config
from adar_ray.custom import blamed, find_custom
from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord, Evaluation, RunResult
from adar_ray.training.run import Run
from adar_ray.training.trackers import SearchEnd

_KEY = "train.callbacks"
_METHODS = ("on_step", "on_epoch", "on_end")

logger = logging.getLogger(__name__)


class Callback(Protocol):
    """What a callback may have; one of these methods is enough, and nothing needs to be inherited.

    A callback is what `module:callable`, called with the `Run`, returns. That happens whenever training
    begins or goes on, so it may read `run.epochs()` to learn which epochs came before.
    """

    def on_step(self, epoch: int, step: int, steps: int, loss: torch.Tensor) -> None:
        """After each step.

        Args:
            epoch, step: counted from 1.
            steps: of an epoch.
            loss: mean over the rows of worker 0, penalty included, on its device, where reading it waits for
                the step.
        """

    def on_epoch(self, record: EpochRecord) -> None:
        """Once an epoch is saved, while the next one trains."""

    def on_end(self, result: RunResult | None) -> None:
        """Once all epochs are trained, or with None if training stops before, whatever the reason.

        A process that is killed has no time for it.
        """


class Callbacks:
    """The callbacks of a run, in the order of `train.callbacks`. Entering the context makes them; leaving it
    tells them of the end.

    Attributes:
        on_step, on_epoch: the methods of those that have one.

    Raises:
        AdarError: a callback failed; the message names it and what it was told.
    """

    def __init__(self, run: Run, rank: int = 0) -> None:
        """Only worker 0 has callbacks."""
        self._run, self._names = run, run.config.train.callbacks if rank == 0 else []
        self._made: list[tuple[str, Any]] = []
        self.on_step: list[Callable[..., None]] = []
        self.on_epoch: list[Callable[..., None]] = []

    def __enter__(self) -> Callbacks:
        try:
            for name in self._names:
                make = self._blamed(name, "", partial(_make, _find(name)))
                self._made.append((name, make(self._run)))
        except BaseException:
            self._stop()
            raise
        self.on_step, self.on_epoch = self._methods("on_step"), self._methods("on_epoch")
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is not None:
            self._stop()
        elif on_end := self._methods("on_end"):
            _tell_all(on_end, self._run.outcome())

    def _stop(self) -> None:
        """Tells that training stops before its end; the error that stopped it is the one to report."""
        for tell in self._methods("on_end"):
            try:
                tell(None)
            except AdarError as error:
                logger.warning("%s", error)

    def _methods(self, what: str) -> list[Callable[..., None]]:
        found = ((name, getattr(made, what, None)) for name, made in self._made)
        return [self._blamed(name, f"{what}: ", method) for name, method in found if method is not None]

    def _blamed(self, name: str, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return blamed(
            f"{_KEY} {name}: {what}",
            function,
            f"; once that is mended, go on with `adar-ray train --resume {self._run.folder.in_shell}`, or "
            f"without it by --set '{_KEY}=[]'",
        )


def send_evaluation(run: Run, evaluation: Evaluation) -> None:
    """Sends what `evaluate` measured to the trackers of the run.

    Raises:
        AdarError: one of them is not set up, or failed.
    """
    for name in run.config.train.callbacks:
        if name in TRACKERS:
            remedy = f"; the figures are in {run.folder}/evaluation: evaluate again to send them"
            blamed(f"{_KEY} {name}: ", _find(name).send_evaluation, remedy)(run, evaluation)


def begin_search(config: Config, folder: Folder, known: Mapping[str, str]) -> dict[str, str]:
    """Tells trackers that a search begins or goes on, whose trials will be parts of it.

    Args:
        config: of the trials, which names the trackers.
        folder: of the search.
        known: what this has returned before.

    Returns:
        What each tracker knows the search by.
    """
    trackers = [name for name in config.train.callbacks if name in TRACKERS]
    return {
        name: blamed(f"{_KEY} {name}: ", _find(name).begin_search, "; mend that, or search without it")(
            folder, known.get(name)
        )
        for name in trackers
    }


def end_search(folder: Folder, known: Mapping[str, str], end: SearchEnd | None) -> None:
    """Tells the same trackers what came of it; None if it stops before its end."""
    remedy = f"; once that is mended, `adar-ray tune --resume {folder.in_shell}` sends it"
    tell = [
        partial(blamed(f"{_KEY} {name}: ", _find(name).end_search, remedy), folder, parent)
        for name, parent in known.items()
    ]
    _tell_all(tell, end)


def _tell_all(listeners: Sequence[Callable[..., Any]], end: RunResult | SearchEnd | None) -> None:
    """Tells every one of the end, even if others fail; then raises the first error."""
    errors: list[Exception] = []
    for tell in listeners:
        try:
            tell(end)
        except Exception as error:
            errors.append(error)
    for other in errors[1:]:
        logger.warning("%s", other)
    if errors:
        raise errors[0]


def check_callbacks(config: Config) -> None:
    """Refuses callbacks that cannot be made, before anything is written.

    Raises:
        AdarError: a module cannot be imported, or a tracker is not set up.
    """
    for name in config.train.callbacks:
        _find(name)


def _make(maker: Callable[[Run], Any], run: Run) -> Any:
    made = maker(run)
    if not any(callable(getattr(made, method, None)) for method in _METHODS):
        raise AdarError(f"returns a {type(made).__name__}, which has none of {', '.join(_METHODS)}")
    return made


def _find(name: str) -> Any:
    """What makes the callback of this name; a tracker's also has `send_evaluation`."""
    if name == "mlflow":
        from adar_ray.training.trackers import mlflow

        mlflow.check(_KEY)
        return mlflow.MlflowTracker
    if name == "wandb":
        from adar_ray.training.trackers import wandb

        wandb.check(_KEY)
        return wandb.WandbTracker
    return find_custom(_KEY, name, takes=["the run"])
