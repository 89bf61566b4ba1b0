"""The run folder: its files, and how they are written and read.

Every file is replaced as a whole, so the folder can be read safely while the run continues.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pyarrow.fs as pafs
import torch
from pydantic import ValidationError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from adar_ray.config import Config, build_config
from adar_ray.custom import refuse_foreign_code
from adar_ray.data.dataset import MANIFEST, Dataset
from adar_ray.documents import explain, parse_yaml, to_yaml
from adar_ray.errors import AdarError, one_line
from adar_ray.interactions.users import Users
from adar_ray.lease import Lease, hold, read_holder
from adar_ray.outputs import check_replaceable, forget_replaced, replacing
from adar_ray.storage import Folder
from adar_ray.training.records import (
    EpochRecord,
    Evaluation,
    RunInfo,
    RunResult,
    StepProgress,
    TrainingState,
)
from adar_ray.training.saved_model import WEIGHTS, read_weights, save_model

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
RESULT = "result.json"
PROGRESS = "progress.json"
CHECKPOINTS = "checkpoints"
LAST = f"{CHECKPOINTS}/last.json"
MODEL = "model"
_ALL_ROWS = 0, 1  # those of the only worker


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        lease: the right to write, which is checked before each epoch and checkpoint; None if nothing is to be
            checked.
        trust: whether code that its files name may run: the user has said so, or named it himself.
    """

    folder: Folder
    config: Config
    info: RunInfo
    lease: Lease | None = None
    trust: bool = field(default=False, compare=False)

    @classmethod
    def create(
        cls, address: str | Path, config: Config, dataset: Dataset, workers: int, *, replace: bool = False
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
                return cls.begin(folder, config, dataset, workers)

    @classmethod
    def begin(cls, folder: Folder, config: Config, dataset: Dataset, workers: int) -> Run:
        """Writes the configuration of a run into a folder and leaves other files there alone."""
        info = RunInfo(
            dataset=dataset.folder.address,
            dataset_checksum=dataset.checksum,
            workers=workers,
            versions=_versions(),
        )
        run = cls(folder, config, info, trust=True)
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
        content = parse_yaml(folder.read_bytes(CONFIG), origin)
        if not isinstance(content, dict) or "run" not in content:
            raise AdarError(f"{origin}: is damaged (it has no section run)")
        try:
            info = RunInfo.model_validate(content["run"])
        except ValidationError as error:
            raise AdarError(f"{origin}: is damaged (run.{explain(error)})") from error
        config = build_config([(origin, content)], origin)
        refuse_foreign_code(config.component_names(), origin, trust)
        return cls(folder, config, info, trust=trust)

    def write_config(self) -> None:
        content = {"run": self.info.model_dump(exclude_defaults=True), **self.config.used()}
        self._owned().write_bytes(CONFIG, to_yaml(content).encode())

    def dataset(self, moved_to: str | Path | None = None) -> Dataset:
        """The dataset of this run.

        Args:
            moved_to: where the dataset is now, if it has moved.

        Raises:
            AdarError: it is not there, or it has changed since training began.
        """
        if moved_to is None and not Folder.at(self.info.dataset).exists(MANIFEST):
            raise AdarError(
                f"{self.folder}: its dataset is no longer at {self.info.dataset}; "
                "say with --data where it is now"
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

    # Metrics: one line per epoch.

    def epochs(self) -> list[EpochRecord]:
        return read_epochs(self.folder)

    def write_epochs(self, epochs: list[EpochRecord]) -> None:
        self._owned().write_bytes(METRICS, "".join(epoch.to_line() for epoch in epochs).encode())

    # Checkpoints.

    def write_part(self, epoch: int, worker: int, workers: int, content: bytes | memoryview) -> bytes:
        """Writes one worker's part of an epoch's checkpoint. It counts once the checkpoint is committed.

        Args:
            content: a safetensors file.

        Returns:
            The SHA-256 of the file.
        """
        self._owned().write_bytes(_part(epoch, worker, workers), content)
        return hashlib.sha256(content).digest()

    def commit_checkpoint(self, state: TrainingState) -> None:
        """Makes an epoch's checkpoint the last one. Checkpoints but this and the best epoch's are removed."""
        self._owned().write_json(LAST, state.model_dump())
        selector = pafs.FileSelector(self.folder.join(CHECKPOINTS), allow_not_found=True)
        kept = {f"{epoch:05d}" for epoch in state.parts}
        for file in self.folder.filesystem.get_file_info(selector):
            if (
                file.type == pafs.FileType.Directory
                and file.base_name.isdigit()
                and file.base_name not in kept
            ):
                self.folder.folder(f"{CHECKPOINTS}/{file.base_name}").remove()

    def copy_checkpoint(self, folder: Folder) -> None:
        """Copies what the run continues from into another run's folder."""
        state = self.load_checkpoint()
        assert state is not None
        for epoch, parts in state.parts.items():
            for worker in range(len(parts)):
                name = _part(epoch, worker, len(parts))
                folder.write_bytes(name, self.folder.read_bytes(name))
        folder.write_json(LAST, state.model_dump())

    def load_checkpoint(self) -> TrainingState | None:
        """What the run continues from; None if it starts."""
        if not self.folder.exists(LAST):
            return None
        state = self.folder.read_record(LAST, TrainingState)
        if not {state.epoch, state.best_epoch} <= state.parts.keys():
            raise AdarError(
                f"{self.folder}/{LAST}: is damaged (it lacks its checkpoints); start again with --replace"
            )
        return state

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
        """One worker's tensors of the last checkpoint, however many workers wrote it.

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
        workers, written = len(state.parts[state.epoch]), set(state.dealt.get(state.epoch, []))
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
            part = self._read_part(state, state.epoch, writer)
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
                raise self._damaged_part(state.epoch, writer, workers, problem)
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

    def _read_part(self, state: TrainingState, epoch: int, worker: int) -> dict[str, torch.Tensor]:
        workers = len(state.parts[epoch])
        try:
            content = self.folder.read_bytes(_part(epoch, worker, workers))
            if hashlib.sha256(content).hexdigest() != state.parts[epoch][worker]:
                raise ValueError("wrong checksum")
            return load_safetensors(content)
        except Exception as error:  # safetensors has no exception class for damaged files
            raise self._damaged_part(epoch, worker, workers, one_line(error, 120)) from error

    def _damaged_part(self, epoch: int, worker: int, workers: int, problem: str) -> AdarError:
        name = _part(epoch, worker, workers)
        return AdarError(f"{self.folder}/{name}: cannot be read ({problem}); start again with --replace")

    def _owned(self) -> Folder:
        """The folder, to write to; raises AdarError if another process has taken it over."""
        if self.lease is not None:
            self.lease.check()
        return self.folder

    # Results.

    def finish(self, dataset: Dataset, result: RunResult) -> None:
        """Writes the best model and, last, the result that marks the run as finished."""
        save_model(self.folder.folder(MODEL), self.config, dataset, save_safetensors(self._best_weights()))
        self.folder.write_json(RESULT, result.model_dump())
        if self.folder.exists(PROGRESS):
            self.folder.filesystem.delete_file(self.folder.join(PROGRESS))

    def result(self) -> RunResult | None:
        """The final figures; None if the run is not finished."""
        return self.folder.read_record(RESULT, RunResult) if self.folder.exists(RESULT) else None

    def progress(self) -> StepProgress | None:
        """How far the workers are within the current epoch; None if they have not said so yet."""
        return self.folder.read_record(PROGRESS, StepProgress) if self.folder.exists(PROGRESS) else None

    def write_progress(self, progress: StepProgress) -> None:
        self._owned().write_json(PROGRESS, progress.model_dump())

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the best epoch, or of the best so far if the run is not finished."""
        if self.folder.exists(f"{MODEL}/{WEIGHTS}"):
            return read_weights(self.folder, f"{MODEL}/{WEIGHTS}")
        return self._best_weights()

    def _best_weights(self) -> dict[str, torch.Tensor]:
        state = self.load_checkpoint()
        if state is None:
            raise AdarError(f"{self.folder}: has no model yet; continue it with `adar-ray train --resume`")
        workers = len(state.parts[state.best_epoch])
        parts = [self._read_part(state, state.best_epoch, worker) for worker in range(workers)]
        return {
            name.removeprefix("model."): _joined(
                [part[name] for part in parts if name in part], name in state.dealt.get(state.best_epoch, [])
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
            name.removesuffix(".json"): self.folder.read_record(f"evaluation/{name}", Evaluation)
            for name in names
        }


def _joined(tensors: list[torch.Tensor], is_dealt: bool) -> torch.Tensor:
    """A tensor of which each worker has written some rows, or the first worker all."""
    if len(tensors) == 1:
        return tensors[0]
    whole = torch.cat(tensors)  # as rows of users follow each other
    for worker, tensor in enumerate(tensors if is_dealt else []):
        whole[worker :: len(tensors)] = tensor
    return whole


def _part(epoch: int, worker: int, workers: int) -> str:
    return f"{CHECKPOINTS}/{epoch:05d}/{worker:05d}-of-{workers:05d}.safetensors"


def read_epochs(folder: Folder) -> list[EpochRecord]:
    """The epochs so far of the run in this folder: 1, 2, 3, ...

    Raises:
        AdarError: a line of the file is damaged, or not the next epoch.
    """
    if not folder.exists(METRICS):
        return []
    epochs: list[EpochRecord] = []
    for number, line in enumerate(folder.read_bytes(METRICS).splitlines(), 1):
        try:
            record = EpochRecord.model_validate_json(line)
        except ValidationError as error:
            raise _damaged_epochs(folder, number, f"is damaged ({explain(error)})") from error
        if record.epoch != number:
            raise _damaged_epochs(folder, number, f"is epoch {record.epoch}, not {number}")
        if not 1 <= record.best_epoch <= number:
            raise _damaged_epochs(folder, number, f"names {record.best_epoch} as the best epoch so far")
        epochs.append(record)
    return epochs


def _damaged_epochs(folder: Folder, number: int, problem: str) -> AdarError:
    return AdarError(
        f"{folder}/{METRICS}: line {number} {problem}; restore the file, or train again with --replace"
    )


def _check_new(folder: Folder, replace: bool) -> None:
    if not replace and not folder.is_empty():
        raise AdarError(_refusal(folder))
    check_replaceable(folder, CONFIG)


def _refusal(folder: Folder) -> str:
    if not folder.exists(CONFIG):
        return f"{folder}: is not empty and not a run; choose another folder for --out"
    if folder.exists(RESULT):
        return f"{folder}: holds a finished run; choose another folder, or overwrite it with --replace"
    holder = read_holder(folder)
    if holder is not None and not holder.is_dead:
        return f"{folder}: holds a run that is in use by {holder}; wait for its end, or choose another folder"
    return (
        f"{folder}: holds an unfinished run; continue it with `adar-ray train --resume {folder}`, "
        "or overwrite it with --replace"
    )


def _versions() -> dict[str, str]:
    packages = ("adar-ray", "ray", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
