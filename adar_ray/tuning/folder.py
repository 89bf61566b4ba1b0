"""The folder of a search: what is written, under which name, and what is read back.

    SEARCH/search.yaml      what is searched: the space, the dataset, the limits
    SEARCH/trials/00000/    a run folder per trial, and `trial.json`: its parameters and how it ended
    SEARCH/best.yaml        the configuration of the best trial so far
    SEARCH/trials.parquet   a row per trial
    SEARCH/report.html
    SEARCH/winner/          runs of the best configuration, one per seed, and `result.json`

A search resumes from these files alone; Ray Tune's own state is thrown away. Every file is replaced as a
whole, so a search may be killed at any moment, and read while it goes on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationError

from adar_ray.config import Config, read_setting
from adar_ray.custom import refuse_foreign_code
from adar_ray.data.dataset import Dataset
from adar_ray.documents import damaged, explain, to_yaml
from adar_ray.durations import LONGEST
from adar_ray.errors import AdarError, one_line
from adar_ray.lease import Lease, read_holder
from adar_ray.limits import MOST_REPEATS, MOST_TRIALS, MOST_WORKERS
from adar_ray.outputs import REPLACED, Kind, check_replaceable
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord, Record, TrackerIds
from adar_ray.training.run import TRACKERS, Run, read_epochs, read_tracker_ids
from adar_ray.tuning.space import Space
from adar_ray.tuning.trial import Trial, best_of

SEARCH = "search.yaml"
TRIAL = "trial.json"
BEST = "best.yaml"
TABLE = "trials.parquet"
REPORT = "report.html"
RESULT = "winner/result.json"
KIND = Kind(SEARCH, ("trials", "winner", BEST, TABLE, REPORT, TRACKERS, REPLACED, "ray-*"))
_REMEDY = "restore it, or search again with --replace"


class Search(BaseModel):
    """A search folder: `search.yaml` says what is searched, and the trials lie beside it.

    Attributes:
        lease: the right to write, which is checked before each trial's change; None if nothing is to be
            checked.
        data, checksum: the dataset.
        settings: `section.key=value` over the space's base.
        trials, seconds: limits of the search; no limit of time if None.
        concurrent: trials at a time; None for as many as the cluster has room for.
        workers: per trial.
        retries: how often a trial that fails is tried again.
        seeds: runs of the winner.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: InstanceOf[Folder] = Field(exclude=True)
    lease: InstanceOf[Lease] | None = Field(None, exclude=True)
    space: Space
    data: str
    checksum: str
    settings: tuple[str, ...]
    trials: int = Field(ge=1, le=MOST_TRIALS)
    seconds: float | None = Field(ge=0, le=LONGEST)
    concurrent: int | None = Field(ge=1, le=MOST_WORKERS)
    workers: int = Field(ge=1, le=MOST_WORKERS)
    retries: int = Field(ge=0, le=MOST_REPEATS)
    seeds: int = Field(ge=0, le=MOST_REPEATS)

    @classmethod
    def open(cls, address: str | Path, *, trust: bool = False) -> Search:
        """Open an existing search folder.

        Args:
            trust: whether code that it names may run.

        Raises:
            AdarError: it is not a search, its `search.yaml` is damaged, or it names code that is not trusted.
        """
        folder = Folder.at(address)
        if not folder.exists(SEARCH):
            raise AdarError(f"{folder}: is not a search ({SEARCH} is missing); make one with `adar-ray tune`")
        origin = f"{folder}/{SEARCH}"
        content = folder.read_yaml(SEARCH, _REMEDY)
        if not isinstance(content, dict) or "space" not in content:
            raise damaged(origin, "it has no space", _REMEDY)
        of_space = content["space"]
        if isinstance(of_space, dict):  # `resources` are in searches of earlier versions
            of_space = {key: value for key, value in of_space.items() if key != "resources"}
        space = Space.from_mapping(of_space, origin)
        try:
            search = cls.model_validate({**content, "folder": folder, "space": space})
        except ValidationError as error:
            raise damaged(origin, explain(error), _REMEDY) from error
        refuse_foreign_code(search.component_names(), origin, trust)
        return search

    def write(self) -> None:
        self.owned().write_yaml(SEARCH, self.model_dump(mode="json"))

    def owned(self) -> Folder:
        """The folder, to write to; raises AdarError if another process has taken it over."""
        if self.lease is not None:
            self.lease.check()
        return self.folder

    def dataset(self) -> Dataset:
        """The dataset of this search; refuses one that has changed since."""
        dataset = Dataset.open(self.data)
        if dataset.checksum != self.checksum:
            raise AdarError(
                f"{dataset.folder}: has changed since the search {self.folder} began; "
                "restore it, or search again into another folder"
            )
        return dataset

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial."""
        return self.space.config(values, self.settings)

    def component_names(self) -> list[str]:
        """All that `model.name`, `loss.name`, `sampler.name`, `train.callbacks` and `train.metric` can be."""
        layers: list[Mapping[str, Any]] = [
            self.space.base,
            *(read_setting(setting)[1] for setting in self.settings),
        ]
        fixed = [keys["name"] for layer in layers for keys in layer.values() if keys and "name" in keys]
        judges = [self.space.metric, *((layer.get("train") or {}).get("metric", "") for layer in layers)]
        callbacks = [(layer.get("train") or {}).get("callbacks") for layer in layers]
        searched = [
            value
            for name, parameter in self.space.parameters.items()
            if name.endswith(".name")
            for value in parameter.points()
        ]
        lists = (names for names in callbacks if isinstance(names, list))
        metrics = (str(metric).partition("@")[0] for metric in judges)
        named = [*fixed, *searched, *chain.from_iterable(lists), *metrics]
        return [name for name in named if isinstance(name, str)]

    def tracker_ids(self) -> dict[str, str]:
        """What trackers of experiments know this search by, by the tracker's name."""
        return read_tracker_ids(self.folder).ids

    def write_tracker_ids(self, ids: dict[str, str]) -> None:
        self.owned().write_record(TRACKERS, TrackerIds(ids=ids))

    # Trials.

    def trial_folder(self, number: int) -> Folder:
        return self.folder.folder(_trial_name(number))

    def write_trial(self, trial: Trial) -> None:
        self.owned().write_record(f"{_trial_name(trial.number)}/{TRIAL}", trial)

    def read_trials(self) -> list[Trial]:
        """All trials so far, in the order in which they began."""
        selector = pafs.FileSelector(self.folder.join("trials"), allow_not_found=True)
        names = [info.base_name for info in self.folder.filesystem.get_file_info(selector)]
        # By number: it has five digits, or more if it needs them.
        folders = [self.folder.folder(f"trials/{name}") for name in sorted(names, key=lambda n: (len(n), n))]
        trials = [self._read_trial(folder) for folder in folders if folder.exists(TRIAL)]
        for number, trial in enumerate(trials):
            if trial.number != number:
                raise AdarError(f"{self.folder}/{_trial_name(number)}/{TRIAL}: is missing; {_REMEDY}")
        return trials

    def _read_trial(self, folder: Folder) -> Trial:
        trial = folder.read_record(TRIAL, Trial, _REMEDY)
        problem = None if trial.name == folder.path.rpartition("/")[2] else f"it is trial {trial.name}"
        for name, value in (*trial.values.items(), *trial.present_values.items()):
            if name not in self.space.parameters or not self.space.parameters[name].allows(value):
                problem = one_line(f"{name} cannot be {value!r} in this space", 200)
        if problem is not None:
            raise damaged(f"{folder}/{TRIAL}", problem, _REMEDY)
        return trial

    def read_epochs(self, number: int) -> list[EpochRecord]:
        """The lines of `metrics.jsonl` of a trial."""
        return read_epochs(self.trial_folder(number))

    # What comes of them.

    def write_best(self, trial: Trial) -> None:
        """Write `best.yaml`: a configuration that `adar-ray train --config` takes as it is."""
        content = to_yaml(self.config(trial.values).used())
        head = (
            f"# Trial {trial.name}: {self.space.metric} {trial.value_or_nan:.4f} on validation, "
            f"at epoch {trial.best_epoch}.\n"
        )
        self.owned().write_bytes(BEST, (head + content).encode())

    def write_table(self, trials: Sequence[Trial]) -> None:
        """Write `trials.parquet`: a column per parameter, null where a condition left it out."""
        rows = [trial.row() for trial in trials]
        columns = dict.fromkeys(key for row in rows for key in row)
        try:
            table = pa.table({key: [row.get(key) for row in rows] for key in columns})
        except (pa.ArrowException, OverflowError) as error:
            raise AdarError(
                f"{self.folder}/trials: a {TRIAL} has another type of value than the others "
                f"({one_line(error, 120)}); restore it"
            ) from error
        self.owned().write_table(TABLE, table)

    def winner(self) -> WinnerResult | None:
        """How the best configuration did on test; None as long as that is not known."""
        if not self.folder.exists(RESULT):
            return None
        remedy = f"remove it, then `adar-ray tune --resume {self.folder.in_shell}` makes it again"
        return self.folder.read_record(RESULT, WinnerResult, remedy)

    def winner_run(self) -> Run | None:
        """The first run of the best configuration; None if there is none."""
        runs = self.folder.folder("winner")
        seeds = sorted(int(name[5:]) for name in runs.content() if re.fullmatch(r"seed-\d+", name))
        # Nothing here runs its code.
        return Run.open(runs.folder(f"seed-{seeds[0]}").address, trust=True) if seeds else None


def _trial_name(number: int) -> str:
    return f"trials/{number:05d}"


class MetricOverSeeds(Record):
    """A metric on test, over the runs of the winner; the standard deviation is None for a single run."""

    mean: float
    deviation: float | None


class WinnerResult(Record):
    """`winner/result.json`: how the best configuration did on test.

    Attributes:
        trial: the best one.
        valid, test: by metric.
        seeds: how many runs `test` covers.
    """

    trial: str
    valid: dict[str, float]
    seeds: int
    test: dict[str, MetricOverSeeds]


def check_new(folder: Folder, replace: bool) -> None:
    """Refuse a folder that holds anything, unless it is a search and may be replaced."""
    if replace or folder.is_empty():
        check_replaceable(folder, KIND)
        return
    if not folder.exists(SEARCH):
        raise AdarError(f"{folder}: is not empty, and not a search; choose another folder for --out")
    holder = read_holder(folder)
    if holder is not None and not holder.is_dead:
        raise AdarError(
            f"{folder}: holds a search that is in use by {holder}; wait for its end, or choose another folder"
        )
    raise AdarError(
        f"{folder}: holds a search; continue it with `adar-ray tune --resume {folder.in_shell}` "
        "(in Python, adar_ray.resume_search), or overwrite it with --replace (replace=True)"
    )


def summary(search: Search) -> dict[str, Any]:
    """What came of a search, in one row: counts, the best on validation, the winner on test."""
    trials = search.read_trials()
    best = best_of(trials, search.space.mode)
    row: dict[str, Any] = {"search": search.folder.address, "trials": len(trials)}
    for status in ("finished", "stopped", "failed"):
        row[status] = sum(trial.status == status for trial in trials)
    if best is not None:
        row |= {"best trial": best.name, f"valid {search.space.metric}": best.value, **best.values}
    if (winner := search.winner()) is not None:
        test = winner.test
        cutoff = search.space.metric.partition("@")[2]
        for name in [name for name in test if name.partition("@")[2] == cutoff] or test:
            row[f"test {name}"] = test[name].mean
            if test[name].deviation is not None:
                row[f"test {name}, deviation"] = test[name].deviation
    return row
