"""The folder of a search: what is written, under which name, and what is read back.

    SEARCH/search.yaml      what is searched: the space, the dataset, the limits
    SEARCH/trials/00000/    a run folder a trial, and `trial.json`: its parameters and how it ended
    SEARCH/best.yaml        a configuration: that of the best trial so far
    SEARCH/trials.parquet   a row a trial
    SEARCH/report.html
    SEARCH/winner/          runs of the best configuration, a seed each, and `result.json`

It is all that resumes a search: Ray Tune's own state is thrown away. Every file is replaced as a whole, so
that a search may be killed at any moment and read while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import yaml

from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, one_line
from adar_ray.storage import Folder, check_replaceable
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import read_epochs
from adar_ray.tuning.spaces import Space

SEARCH = "search.yaml"
BEST = "best.yaml"
TABLE = "trials.parquet"
REPORT = "report.html"
RESULT = "winner/result.json"

ENDED = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Plan:
    """Everything that a search is, but for what came of it.

    Attributes:
        folder: of the search.
        settings: `section.key=value` over the space's base.
        trials, seconds: the search ends with so many; None for no limit of time.
        concurrent: trials at a time; None for as many as the cluster holds.
        workers: of a trial.
        retries: of a trial that fails.
        seeds: runs of the winner.
    """

    folder: Folder
    space: Space
    data: str
    checksum: str
    settings: tuple[str, ...]
    trials: int
    seconds: float | None
    concurrent: int | None
    workers: int
    retries: int
    seeds: int

    def write(self) -> None:
        content = {key: value for key, value in vars(self).items() if key != "folder"}
        content |= {"space": self.space.model_dump(mode="json"), "settings": list(self.settings)}
        self.folder.write_bytes(SEARCH, yaml.safe_dump(content, sort_keys=False).encode())

    @classmethod
    def open(cls, address: str | Path) -> Plan:
        folder = Folder.at(address)
        if not folder.exists(SEARCH):
            raise AdarError(f"{folder}: is no search ({SEARCH} is missing); make one with `adar-ray tune`")
        try:
            content = yaml.safe_load(folder.read_bytes(SEARCH))
            space = Space.from_mapping(content.pop("space"), f"{folder}/{SEARCH}")
            settings = tuple(content.pop("settings"))
            return cls(folder=folder, space=space, settings=settings, **content)
        except (yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
            raise AdarError(f"{folder}/{SEARCH}: is damaged ({one_line(error)})") from error

    def dataset(self) -> Dataset:
        """The dataset of this search; refuses one that has changed since."""
        dataset = Dataset.open(self.data)
        if dataset.checksum != self.checksum:
            raise AdarError(
                f"{dataset.folder}: has changed since {self.folder} was begun on it; "
                "restore it, or search again into another folder"
            )
        return dataset

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial."""
        return self.space.config(values, self.settings)

    def trial_folder(self, number: int) -> Folder:
        return self.folder.folder(f"trials/{number:05d}")


def check_new(folder: Folder, replace: bool) -> None:
    """Refuses a folder that holds anything, unless it is a search and may be replaced."""
    if folder.is_empty():
        return
    if not replace:
        if folder.exists(SEARCH):
            raise AdarError(
                f"{folder}: holds a search; go on with `adar-ray tune --resume {folder}`, "
                "or overwrite it with --replace"
            )
        raise AdarError(f"{folder}: is not empty, and no search; choose another folder for --out")
    check_replaceable(folder, SEARCH)
    folder.remove()


@dataclass
class Trial:
    """What is known of a trial.

    Attributes:
        values: of the space's parameters, by `section.key`.
        started: seconds of searching before it.
        status: "running", "finished", "stopped" (by the scheduler, or with the search), "failed" or
            "interrupted".
        value: the best on validation, at `best_epoch`; None before the first epoch.
        seconds: from its start to its end, or to its last epoch.
    """

    number: int
    values: dict[str, Any]
    started: float
    status: str = "running"
    epochs: int = 0
    best_epoch: int | None = None
    value: float | None = None
    seconds: float = 0.0
    error: str | None = None
    curve: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def has_value(self) -> bool:
        return self.value is not None and not math.isnan(self.value)

    def row(self) -> dict[str, Any]:
        """As a row of `trials.parquet`, and for the report."""
        row = {key: value for key, value in asdict(self).items() if key not in ("number", "values", "curve")}
        return {"trial": self.name, **row, **self.values}


def write_trial(plan: Plan, trial: Trial) -> None:
    plan.trial_folder(trial.number).write_json("trial.json", asdict(trial))


def read_trials(plan: Plan) -> list[Trial]:
    """All trials so far, in the order in which they were begun."""
    selector = pafs.FileSelector(plan.folder.join("trials"), allow_not_found=True)
    names = sorted(info.base_name for info in plan.folder.filesystem.get_file_info(selector))
    folders = [plan.folder.folder(f"trials/{name}") for name in names]
    return [Trial(**folder.read_json("trial.json")) for folder in folders if folder.exists("trial.json")]


def read_curve(plan: Plan, number: int) -> list[EpochRecord]:
    """The lines of `metrics.jsonl` of a trial."""
    return read_epochs(plan.trial_folder(number))


def best_of(trials: list[Trial], mode: str) -> Trial | None:
    """The trial with the best value; of equals the first. What is no number is never the best."""
    judged = [trial for trial in trials if trial.status != "failed" and trial.has_value]
    sign = 1 if mode == "max" else -1
    return max(judged, key=lambda trial: (sign * trial.value, -trial.number), default=None)


def write_best(plan: Plan, trial: Trial) -> None:
    """`best.yaml`: a configuration that `adar-ray train --config` takes as it is."""
    content = yaml.safe_dump(plan.config(trial.values).model_dump(), sort_keys=False)
    head = (
        f"# Trial {trial.name}: {plan.space.metric} {trial.value:.4f} on validation, "
        f"at epoch {trial.best_epoch}.\n"
    )
    plan.folder.write_bytes(BEST, (head + content).encode())


def write_table(plan: Plan, trials: list[Trial]) -> None:
    """`trials.parquet`: a column a parameter, null where a condition left it out."""
    rows = [trial.row() for trial in trials]
    columns = dict.fromkeys(key for row in rows for key in row)
    plan.folder.write_table(TABLE, pa.table({key: [row.get(key) for row in rows] for key in columns}))


def summary(folder: Folder) -> dict[str, Any]:
    """What came of a search, in one row: counts, the best on validation, the winner on test."""
    plan = Plan.open(folder.address)
    trials = read_trials(plan)
    best = best_of(trials, plan.space.mode)
    row: dict[str, Any] = {"search": folder.address, "trials": len(trials)}
    row |= {status: sum(trial.status == status for trial in trials) for status in ENDED}
    if best is not None:
        row |= {"best trial": best.name, f"valid {plan.space.metric}": best.value, **best.values}
    if folder.exists(RESULT):
        test = folder.read_json(RESULT)["test"]
        shown = [name for name in test if name.partition("@")[2] == plan.space.metric.partition("@")[2]]
        for name in shown or test:
            figures = test[name]
            row[f"test {name}"] = figures["mean"]
            if figures["deviation"] is not None:
                row[f"test {name}, deviation"] = figures["deviation"]
    return row
