"""The folder of a comparison: what is written, under which name, and what is read back.

COMPARISON/plan.json         what is compared; its existence marks the folder as a comparison
COMPARISON/tuning/           a search folder per trained system, and a file per baseline that is tuned
COMPARISON/runs/NAME/        a run folder per trained system and seed
COMPARISON/users/SPLIT/      figures of each user, a Parquet file per run and per baseline
COMPARISON/comparison.json   what came of it, written last
COMPARISON/table.md, table.tex, report.html
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.records import Record

PLAN = "plan.json"
RESULT = "comparison.json"
MARKDOWN, LATEX, REPORT = "table.md", "table.tex", "report.html"


class Plan(Record):
    """`plan.json`: what is compared.

    Attributes:
        data, checksum: the dataset.
        models, samplers: each pair is a system that is trained; each system has `seeds` runs.
        trials: that each system and baseline is tuned with; 0 for none.
        settings: `section.key=value` of all runs.
        workers: of each run, as for `train`; None for its default.
        reference: what is asked for; None for the default.
        test: whether test is measured.
    """

    data: str
    checksum: str
    models: list[str]
    samplers: list[str]
    baselines: list[str]
    seeds: PositiveInt
    trials: NonNegativeInt
    settings: list[str]
    workers: int | str | None
    reference: str | None
    test: bool

    @property
    def fingerprint(self) -> str:
        """Tells whether two plans are the same."""
        return sha256(self.model_dump_json().encode()).hexdigest()

    def command(self, out: str) -> list[str]:
        """The words of the command that makes this comparison."""
        words = ["adar-ray", "compare", self.data, "--out", out]
        words += ["--models", ",".join(self.models), "--samplers", ",".join(self.samplers)]
        words += ["--baselines", ",".join(self.baselines), "--seeds", str(self.seeds)]
        words += ["--trials", str(self.trials)] if self.trials else []
        words += [word for setting in self.settings for word in ("--set", setting)]
        words += [] if self.workers is None else ["--workers", str(self.workers)]
        words += [] if self.reference is None else ["--reference", self.reference]
        return [*words, "--test"] if self.test else words


class TunedTrial(Record):
    """A trial of a system or a baseline.

    Attributes:
        values: by `section.key`, or by the baseline's setting.
        value: the metric that decides, on validation; None if the trial failed.
    """

    values: dict[str, bool | int | float | str]
    value: float | None


class Tunings(Record):
    """`tuning/BASELINE.json`: the trials of a baseline so far.

    Attributes:
        metric: what `value` is of.
        code: the SHA-256 of the module that it is in, if it is the user's own.
        search: the ranges, by setting.
    """

    metric: str
    code: str = ""
    search: dict[str, dict[str, Any]]
    trials: list[TunedTrial]


class Tuned(Record):
    """What a system or a baseline was tuned to.

    Attributes:
        best: the number of the best trial; the first one, which has the defaults, is 0.
        trials: all of them, in the order in which they began.
    """

    best: NonNegativeInt
    trials: list[TunedTrial]

    @classmethod
    def of(cls, trials: Iterable[TunedTrial]) -> Tuned:
        """Of trials of which at least one has a value; of equal ones the first is best."""
        trials = list(trials)
        values = [-math.inf if trial.value is None else trial.value for trial in trials]
        return cls(best=values.index(max(values)), trials=trials)

    @property
    def chosen(self) -> TunedTrial:
        return self.trials[self.best]


class SystemFigures(Record):
    """What a system has in a split, and how it compares with the reference.

    Attributes:
        runs: how many there are; the figures are their means.
        metrics: means over users, by name.
        deviations: standard deviations over runs; None for a single run.
        gain: over the reference in the metric that decides, as a share of the reference's figure; None for
            the reference itself, and if that figure is 0.
        p: of a paired t-test over users, each with the mean over runs; None for the reference itself, and if
            there is a single user.
        p_holm: p, corrected for the number of tests in the split.
    """

    runs: PositiveInt
    metrics: dict[str, float]
    deviations: dict[str, float] | None
    gain: float | None = None
    p: float | None = None
    p_holm: float | None = None


class UserGroup(Record):
    """Users who are much alike, and how well each system does for them.

    Attributes:
        first, last: the lowest and the highest number in the group, of a user's items in training; or,
            rounded, the mean number of users in training of the user's items in the split.
        users: how many of them count in the metric that decides.
        figures: means of the metric that decides over these users and over runs, by system.
    """

    first: int
    last: int
    users: PositiveInt
    figures: dict[str, float]


class SplitFigures(Record):
    """What came of a split.

    Attributes:
        users: number of users with interactions in the split; others do not count.
        systems: by name, baselines first.
        groups: in ascending order, by `activity` (items in training) and by `popularity` (of what the
            user takes in the split).
    """

    users: NonNegativeInt
    systems: dict[str, SystemFigures]
    groups: dict[str, list[UserGroup]]


class Comparison(Record):
    """`comparison.json`: what came of a comparison.

    Attributes:
        dataset: its name.
        data, checksum: its address and checksum.
        plan: the fingerprint of what was compared; empty in the file of an earlier version.
        metric: decides which epoch of a run is best, and is what is tested.
        reference: the system that the others are tested against.
        left_out: baselines that could not be computed, and why.
        trials: that each system and baseline was tuned with; 0 if nothing was tuned.
        tuned: what came of that, by system; a baseline without settings is not there.
        splits: `valid` and, if it was asked for, `test`.
    """

    dataset: str
    data: str
    checksum: str
    plan: str = ""
    metric: str
    reference: str
    left_out: dict[str, str]
    trials: NonNegativeInt
    tuned: dict[str, Tuned]
    splits: dict[str, SplitFigures]


def check_folder(folder: Folder, wanted: Plan) -> None:
    """Refuse a folder that holds anything but a comparison on the same dataset, tuned alike."""
    if not folder.exists(PLAN):
        if not folder.is_empty():
            raise AdarError(f"{folder}: is not empty, and not a comparison; choose another folder for --out")
        return
    plan = folder.read_record(PLAN, Plan, "choose another folder for --out")
    if plan.trials != wanted.trials:
        raise AdarError(
            f"{folder}: holds a comparison with --trials {plan.trials}, not {wanted.trials}; "
            "choose another folder for --out"
        )
    if plan.checksum != wanted.checksum:
        raise AdarError(
            f"{folder}: holds a comparison on another dataset, {plan.data} as it was then; "
            "choose another folder for --out"
        )
