"""The run folder: its files, and how they are written and read.

Every file is replaced as a whole, so the folder can be read safely while the run continues.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import platform
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import pyarrow.fs as pafs
import torch
from pydantic import ValidationError
from safetensors.torch import save as save_safetensors

from adar_ray.config import Config, recorded_config
from adar_ray.custom import refuse_foreign_code
from adar_ray.data.dataset import MANIFEST, Dataset
from adar_ray.documents import damaged, explain
from adar_ray.errors import AdarError, counted, one_line
from adar_ray.interactions.users import Users
from adar_ray.lease import Lease, hold, read_holder
from adar_ray.outputs import REPLACED, Kind, check_replaceable, forget_replaced, replacing
from adar_ray.storage import Folder
from adar_ray.training.records import (
    EpochRecord,
    Evaluation,
    Place,
    RunInfo,
    RunResult,
    StepProgress,
    TrackerIds,
    TrainingState,
    WarmStart,
)
from adar_ray.training.saved_model import INFO, load_tensors, read_weights, save_model
from adar_ray.training.user_figures import UserFigures, read_user_figures

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
RESULT = "result.json"
PROGRESS = "progress.json"
INITIAL = "initial.safetensors"
TRACKERS = "trackers.json"
CHECKPOINTS = "checkpoints"
STATE = "state.json"
MODEL = "model"
EVENTS = "tensorboard"
KIND = Kind(
    CONFIG,
    (
        *(METRICS, RESULT, PROGRESS, INITIAL, TRACKERS, CHECKPOINTS, MODEL, EVENTS, REPLACED),
        *("evaluation", "wandb", "stop.json", "bad_batch-*.safetensors"),
    ),
)
_ALL_ROWS = 0, 1  # those of the only worker
_PLACE = re.compile(r"(\d{5,7})(?:-(\d{8,10}))?")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Initial:
    """The weights that a run begins with: the content of a safetensors file, and what is recorded of it."""

    content: bytes
    record: WarmStart


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        lease: the right to write, which is checked before each epoch and checkpoint; None if nothing is to be
            checked.
        trust: whether code that its files name may run: the user allowed it, or named it.
        is_new: whether this process has begun it.
    """

    folder: Folder
    config: Config
    info: RunInfo
    lease: Lease | None = None
    trust: bool = field(default=False, compare=False)
    is_new: bool = field(default=False, compare=False)

    def __repr__(self) -> str:
        config = self.config
        epochs = counted(config.train.epochs, "epoch")
        return f"Run({self.folder}: {config.model.name}, {config.sampler.name}, {epochs})"

    @classmethod
    def create(
        cls,
        address: str | Path,
        config: Config,
        dataset: Dataset,
        workers: int | str,
        *,
        initial: Initial | None = None,
        replace: bool = False,
    ) -> Run:
        """Starts a run folder. Refuses one with content unless `replace`.

        What is replaced stays in the folder as `replaced/` until the new run is finished.
        """
        folder = Folder.at(address)
        _check_new(folder, replace)
        with hold(folder):
            _check_new(folder, replace)
            if folder.exists(RESULT):
                forget_replaced(folder)
            with replacing(folder, CONFIG):
                return cls.begin(folder, config, dataset, workers, initial)

    @classmethod
    def begin(
        cls,
        folder: Folder,
        config: Config,
        dataset: Dataset,
        workers: int | str,
        initial: Initial | None = None,
    ) -> Run:
        """Writes the configuration of a run into a folder and leaves other files there alone."""
        info = RunInfo(
            dataset=dataset.folder.address,
            dataset_checksum=dataset.checksum,
            workers=workers,
            versions=versions(),
            began=time_now(),
            initial=initial and initial.record,
        )
        if initial is not None:
            folder.write_bytes(INITIAL, initial.content)
        run = cls(folder, config, info, trust=True, is_new=True)
        run.write_config()
        return run

    @classmethod
    def open(cls, address: str | Path | Run, *, trust: bool = False) -> Run:
        """Opens an existing run folder; returns a run as it is.

        Args:
            trust: whether code that its files name may run.

        Raises:
            AdarError: it is not a run, a file is damaged, or it names code that is not trusted.
        """
        if isinstance(address, Run):
            return address
        folder = Folder.at(address)
        if not folder.exists(CONFIG):
            raise AdarError(
                f"{folder}: is not a run folder ({CONFIG} is missing); make one with `adar-ray train`"
            )
        origin = f"{folder}/{CONFIG}"
        remedy = (
            "restore it, or train again with --replace; "
            f"change settings with `adar-ray train --resume {folder.in_shell} --set KEY=VALUE`"
        )
        content = folder.read_yaml(CONFIG, remedy)
        if not isinstance(content, dict) or "run" not in content:
            raise damaged(origin, "it has no section run", remedy)
        try:
            info = RunInfo.model_validate(content["run"])
        except ValidationError as error:
            raise damaged(origin, f"run.{explain(error)}", remedy) from error
        config = recorded_config(content, origin)
        refuse_foreign_code(config.component_names(), origin, trust)
        return cls(folder, config, info, trust=trust)

    def forget(self) -> None:
        """Empties the folder of a run that has saved nothing yet, so that another may begin there."""
        if not self.folder.exists(CHECKPOINTS):
            for name in self.folder.content():
                self.folder.delete(name)

    def write_config(self) -> None:
        content = {"run": self.info.model_dump(exclude_defaults=True), **self.config.used()}
        self._owned().write_yaml(CONFIG, content)

    def dataset(self, moved_to: str | Path | None = None) -> Dataset:
        """The dataset of this run.

        Args:
            moved_to: where the dataset is now, if it has moved.

        Raises:
            AdarError: it is not there, or it has changed since training began.
        """
        before = Folder.at(self.info.dataset)
        if moved_to is None and not before.exists(MANIFEST):
            why = f" (there is no {MANIFEST} in it)" if before.exists() else ""
            raise AdarError(
                f"{self.folder}: its dataset is no longer at {before}{why}; say with --data where it is now"
            )
        dataset = Dataset.open(moved_to or self.info.dataset)
        if dataset.checksum != self.info.dataset_checksum:
            problem = (
                f"has changed since {self.folder} was trained on it; restore it"
                if moved_to is None
                else f"is not the dataset that {self.folder} was trained on; give that one"
            )
            raise AdarError(f"{dataset.folder}: {problem}, or train again into another folder")
        return dataset

    def initial_weights(self) -> dict[str, torch.Tensor] | None:
        """What `warm_start.initial_weights` has written; None if all weights are to be drawn at random.

        Raises:
            AdarError: the file is missing or damaged.
        """
        initial = self.info.initial
        return None if initial is None else self._read_tensors(INITIAL, initial.sha256)

    # Metrics: one line per epoch.

    def epochs(self) -> list[EpochRecord]:
        return read_epochs(self.folder)

    def write_epochs(self, epochs: list[EpochRecord]) -> None:
        folder = self._owned()
        if epochs:
            folder.write_lines(METRICS, [epoch.to_dict() for epoch in epochs])
        elif folder.exists(METRICS):
            folder.delete(METRICS)

    # Checkpoints.

    def write_part(self, place: Place, worker: int, workers: int, content: bytes | memoryview) -> str:
        """Writes one worker's part of a checkpoint, which counts once it is committed.

        Args:
            content: a safetensors file.

        Returns:
            The SHA-256 of the file.
        """
        self._owned().write_bytes(_part(place, worker, workers), content)
        return hashlib.sha256(content).hexdigest()

    def commit_checkpoint(self, state: TrainingState) -> None:
        """Makes a checkpoint count, and removes those that nothing needs any more.

        The newest stay, the last that ends an epoch, and the best epochs of all these.
        """
        self._owned().write_record(_state(state.place), state)
        newest, places = [state], self._places()
        for place in places:
            with contextlib.suppress(AdarError):
                if place < state.place and (older := self.read_state(place)):
                    newest.append(older)
        last_epoch = next((one for one in newest if not one.step), state)
        needed = [*newest[: self.config.checkpoints.keep], last_epoch]
        kept = {one.place for one in needed} | {(one.best_epoch, 0) for one in needed}
        for place in places:
            if place not in kept:
                self.folder.folder(_checkpoint(place)).remove()

    def forget_steps(self) -> bool:
        """Removes all checkpoints within an epoch, so that the epoch under way begins anew.

        Returns:
            Whether the newest checkpoint was one of them.
        """
        places = self._places()
        for place in places:
            if place[1]:
                self._owned().folder(_checkpoint(place)).remove()
        return bool(places and places[0][1])

    def copy_checkpoint(self, folder: Folder, epoch: int) -> None:
        """Copies the checkpoint that ends an epoch into the folder of another run, whose own go.

        Raises:
            AdarError: it, or that of the best epoch until then, is not there or damaged.
        """
        state = self._end(epoch)
        folder.folder(CHECKPOINTS).remove()
        for each in (state, self._end(state.best_epoch)):
            for worker in range(len(each.files)):
                name = _part(each.place, worker, len(each.files))
                folder.write_bytes(name, self.folder.read_bytes(name))
            folder.write_record(_state(each.place), each)

    def has_progress(self) -> bool:
        """Whether training has saved anything: an epoch, or a checkpoint within one, damaged or not."""
        return self.folder.exists(METRICS) or any(
            self.folder.exists(_state(place)) for place in self._places()
        )

    def newest_checkpoint(self) -> TrainingState | None:
        """The newest checkpoint that is undamaged, with that of the best epoch; None if there is none.

        Raises:
            AdarError: there are checkpoints, but all of them are damaged; or they are gone.
        """
        damages: list[AdarError] = []
        for place in self._places():
            try:
                state = self.read_state(place)
                if state is None:
                    continue
                for each in (state, self._end(state.best_epoch)) if state.best_epoch else (state,):
                    for worker in range(len(each.files)):
                        self._read_part(each, worker)
            except AdarError as error:
                damages.append(error)
                continue
            for damage in damages:
                logger.warning("%s; the checkpoint before it takes its place", damage)
            return state
        if damages:
            problem = f"{damages[0]}; there is no other checkpoint: start again with --replace"
            raise AdarError(problem) from damages[0]
        # Each epoch's line is written before its checkpoint.
        if (trained := len(self.epochs())) > 1:
            raise AdarError(
                f"{self.folder}/{CHECKPOINTS}: holds no checkpoint, though {METRICS} has {trained} epochs; "
                "restore it, or start again with --replace"
            )
        return None

    def read_state(self, place: Place) -> TrainingState | None:
        """What a checkpoint says; None if it does not count.

        Raises:
            AdarError: it is damaged.
        """
        name = _state(place)
        if not self.folder.exists(name):
            return None
        state = self.folder.read_record(name, TrainingState)
        if state.place != place or not state.files or state.best_epoch > state.epoch:
            raise AdarError(f"{self.folder}/{name}: is damaged (it is of another checkpoint)")
        return state

    def _end(self, epoch: int) -> TrainingState:
        """What the checkpoint at the end of an epoch says."""
        state = self.read_state((epoch, 0))
        if state is None:
            raise AdarError(f"{self.folder}/{_state((epoch, 0))}: is missing")
        return state

    def _places(self) -> list[Place]:
        """The places of all checkpoints that are there, newest first; some may never have been committed."""
        selector = pafs.FileSelector(self.folder.join(CHECKPOINTS), allow_not_found=True)
        names = (file.base_name for file in self.folder.filesystem.get_file_info(selector))
        found = (_PLACE.fullmatch(name) for name in names)
        return sorted(((int(one[1]), int(one[2] or 0)) for one in found if one), reverse=True)

    def read_checkpoint(
        self,
        state: TrainingState,
        dataset: Dataset,
        shapes: Mapping[str, Sequence[int]],
        own: Collection[str],
        users: Users,
        dealt: Collection[str],
        worker: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """One worker's tensors of a checkpoint, however many workers wrote it.

        Args:
            shapes: of the tensors that the checkpoint holds, all workers' rows together.
            own: names of those that have a row for each user.
            users: the worker's users, whose rows are wanted.
            dealt: names of those whose rows are dealt to the workers: of `n` workers `w` has the rows
                `w, w + n, w + 2n, ...`. In the checkpoint they need not be.
            worker: the worker's number, whose rows are wanted, and how many workers there are.

        Raises:
            AdarError: a file is missing or damaged, or the tensors are others.
        """
        workers, written = len(state.files), set(state.dealt)
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in shapes if name in own}
        found: dict[str, torch.Tensor] = {}
        for name in shapes.keys() & {*dealt, *written}:
            rank, size = worker if name in dealt else _ALL_ROWS
            found[name] = torch.empty(len(range(rank, shapes[name][0], size)), *shapes[name][1:])
        needs_all, in_common = written - set(dealt), math.gcd(workers, worker[1])
        for writer in range(workers):
            first, last = dataset.user_range(writer, workers)
            start, end = max(users.first, first), min(users.last, last)
            has_dealt_rows = needs_all or (written and (writer - worker[0]) % in_common == 0)
            if writer and start >= end and not has_dealt_rows:
                continue
            part = self._read_part(state, writer)
            problem = None
            if part.keys() != ({*rows, *written} if writer else shapes.keys()):
                problem = "it holds other tensors than the run has"
            for name, tensor in part.items() if problem is None else ():
                wanted = tuple(shapes[name])
                if name in rows:
                    wanted = last - first, *wanted[1:]
                elif name in written:
                    wanted = len(range(writer, wanted[0], workers)), *wanted[1:]
                if tensor.shape != wanted:
                    problem = f"{name} does not fit this run"
            if problem is not None:
                raise AdarError(
                    f"{self.folder}/{_part(state.place, writer, workers)}: cannot be read ({problem})"
                )
            for name, tensor in part.items():
                if name in rows:
                    rows[name].append(tensor[max(start - first, 0) : max(end - first, 0)])
                elif name in found:
                    rank, size = worker if name in dealt else _ALL_ROWS
                    its_rank, its_size = (writer, workers) if name in written else _ALL_ROWS
                    row_R = torch.arange(its_rank, shapes[name][0], its_size)
                    is_wanted_R = row_R % size == rank
                    found[name][row_R[is_wanted_R] // size] = tensor[is_wanted_R]
                else:
                    found[name] = tensor
        return found | {name: torch.cat(parts) for name, parts in rows.items()}

    def _read_part(self, state: TrainingState, worker: int) -> dict[str, torch.Tensor]:
        return self._read_tensors(_part(state.place, worker, len(state.files)), state.files[worker])

    def _read_tensors(self, name: str, sha256: str) -> dict[str, torch.Tensor]:
        try:
            return load_tensors(self.folder.read_bytes(name), sha256)
        except (OSError, ValueError) as error:
            raise AdarError(f"{self.folder}/{name}: cannot be read ({one_line(error, 120)})") from error

    def write_bad_batch(self, name: str, content: bytes) -> None:
        """Writes the rows of a step whose loss is not a number, as a safetensors file."""
        self._owned().write_bytes(name, content)

    def _owned(self) -> Folder:
        """The folder, to write to; raises AdarError if another process has taken it over."""
        if self.lease is not None:
            self.lease.check()
        return self.folder

    # Trackers of experiments.

    def tracker_id(self, tracker: str) -> str | None:
        """The id that a tracker knows this run by; None if it does not know it yet."""
        return read_tracker_ids(self.folder).ids.get(tracker)

    def tracker_parent(self, tracker: str) -> str | None:
        """The id that a tracker knows the search of this run by; None if it belongs to none."""
        return read_tracker_ids(self.folder).parents.get(tracker)

    def write_tracker_id(self, tracker: str, id: str) -> None:
        known = read_tracker_ids(self.folder)
        self._owned().write_record(TRACKERS, known.model_copy(update={"ids": known.ids | {tracker: id}}))

    def write_tracker_parents(self, parents: Mapping[str, str]) -> None:
        """Makes the run part of a search, for the trackers that know that."""
        if parents:
            self._owned().write_record(TRACKERS, TrackerIds(parents=dict(parents)))

    # Results.

    def outcome(self) -> RunResult:
        """The final figures of a run whose epochs are all trained."""
        epochs = self.epochs()
        best = next(record for record in epochs if record.epoch == epochs[-1].best_epoch)
        state = self.read_state((len(epochs), 0))
        return RunResult(
            best_epoch=best.epoch,
            epochs=len(epochs),
            valid=best.valid,
            train_seconds=sum(record.time.train_seconds for record in epochs),
            popularity=state and state.popularity,
            cost=state and state.cost,
        )

    def finish(self, dataset: Dataset, result: RunResult) -> None:
        """Writes the best model and, last, the result that marks the run as finished."""
        save_model(self.folder.folder(MODEL), self.config, dataset, save_safetensors(self._best_weights()))
        self.folder.write_record(RESULT, result)
        if self.folder.exists(PROGRESS):
            self.folder.delete(PROGRESS)

    def result(self) -> RunResult | None:
        """The final figures; None if the run is not finished."""
        if not self.folder.exists(RESULT):
            return None
        remedy = f"remove it, then `adar-ray train --resume {self.folder.in_shell}` makes it again"
        result = self.folder.read_record(RESULT, RunResult, remedy)
        metric = self.config.train.metric
        for name, figures in (("valid", result.valid), ("popularity", result.popularity)):
            if figures is not None and metric not in figures:
                raise damaged(f"{self.folder}/{RESULT}", f"{name}: it has no {metric}", remedy)
        return result

    def progress(self) -> StepProgress | None:
        """How far the workers are within the current epoch; None if they have not said so yet."""
        if not self.folder.exists(PROGRESS):
            return None
        return self.folder.read_record(PROGRESS, StepProgress, "remove it")

    def write_progress(self, progress: StepProgress) -> None:
        self._owned().write_record(PROGRESS, progress)

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the best epoch, or of the best so far if the run is not finished."""
        model = self.folder.folder(MODEL)
        if model.exists(INFO):
            return read_weights(model)
        return self._best_weights()

    def _best_weights(self) -> dict[str, torch.Tensor]:
        states = (self.read_state(place) for place in self._places())
        state = next((state for state in states if state), None)
        if state is None or not state.best_epoch:
            raise AdarError(f"{self.folder}: has no model yet; continue it with `adar-ray train --resume`")
        best = self._end(state.best_epoch)
        parts = [self._read_part(best, worker) for worker in range(len(best.files))]
        return {
            name.removeprefix("model."): _joined(
                [part[name] for part in parts if name in part], name in best.dealt
            )
            for name in parts[0]
            if name.startswith("model.")
        }

    def evaluations(self) -> dict[str, Evaluation]:
        """Results of `evaluate`, by split."""
        selector = pafs.FileSelector(self.folder.join("evaluation"), allow_not_found=True)
        files = self.folder.filesystem.get_file_info(selector)
        names = sorted(file.base_name for file in files if file.base_name.endswith(".json"))
        return {
            name.removesuffix(".json"): self.folder.read_record(
                f"evaluation/{name}", Evaluation, "evaluate again"
            )
            for name in names
        }

    def user_figures(self, split: str) -> UserFigures | None:
        """The metrics of each user that `evaluate` measured, by name, in the order of the dataset's users.

        None if it has not, or in an earlier version.

        Raises:
            AdarError: they are missing, or not those of the evaluation.
        """
        name = f"evaluation/{split}.parquet"
        evaluation = self.evaluations().get(split)
        if evaluation is None or evaluation.per_user is None:
            return None
        figures = read_user_figures(self.folder, name, evaluation.per_user)
        if figures is None:
            raise damaged(f"{self.folder}/{name}", "wrong checksum", "evaluate again")
        return figures


def _joined(tensors: list[torch.Tensor], is_dealt: bool) -> torch.Tensor:
    """A tensor of which each worker has written some rows, or the first worker all."""
    if len(tensors) == 1:
        return tensors[0]
    whole = torch.cat(tensors)  # as rows of users follow each other
    for worker, tensor in enumerate(tensors if is_dealt else []):
        whole[worker :: len(tensors)] = tensor
    return whole


def _checkpoint(place: Place) -> str:
    epoch, step = place
    return f"{CHECKPOINTS}/{epoch:05d}-{step:08d}" if step else f"{CHECKPOINTS}/{epoch:05d}"


def _state(place: Place) -> str:
    return f"{_checkpoint(place)}/{STATE}"


def _part(place: Place, worker: int, workers: int) -> str:
    return f"{_checkpoint(place)}/{worker:05d}-of-{workers:05d}.safetensors"


def read_epochs(folder: Folder) -> list[EpochRecord]:
    """The epochs so far of the run in this folder: 1, 2, 3, ...

    Raises:
        AdarError: a line of the file is damaged, or not the next epoch.
    """
    if not folder.exists(METRICS):
        return []
    remedy = "restore the file, or train again with --replace"
    epochs = folder.read_lines(METRICS, EpochRecord, remedy)
    for number, record in enumerate(epochs, 1):
        problem = None
        if record.epoch != number:
            problem = f"it is epoch {record.epoch}"
        elif record.best_epoch > number:
            problem = f"it names {record.best_epoch} as the best epoch so far"
        if problem is not None:
            raise damaged(f"{folder}/{METRICS}", f"line {number}: {problem}", remedy)
    return epochs


def read_tracker_ids(folder: Folder) -> TrackerIds:
    """What trackers know the run or the search in this folder by."""
    if not folder.exists(TRACKERS):
        return TrackerIds()
    return folder.read_record(TRACKERS, TrackerIds, "remove it, and trackers begin a new run")


def _check_new(folder: Folder, replace: bool) -> None:
    if not replace and not folder.is_empty():
        raise AdarError(_refusal(folder))
    check_replaceable(folder, KIND)


def _refusal(folder: Folder) -> str:
    if not folder.exists(CONFIG):
        return f"{folder}: is not empty and not a run; choose another folder for --out"
    if folder.exists(RESULT):
        return (
            f"{folder}: holds a finished run; choose another folder, or overwrite it with --replace "
            "(in Python, replace=True)"
        )
    holder = read_holder(folder)
    if holder is not None and not holder.is_dead:
        return f"{folder}: holds a run that is in use by {holder}; wait for its end, or choose another folder"
    return (
        f"{folder}: holds an unfinished run; continue it with `adar-ray train --resume {folder.in_shell}` "
        "(in Python, adar_ray.resume), or overwrite it with --replace (replace=True)"
    )


def time_now() -> str:
    """The time to the minute, for people."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def versions() -> dict[str, str]:
    """Of Python and the packages, by name."""
    packages = ("adar-ray", "ray", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
