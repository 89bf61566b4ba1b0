"""The folder of a comparison: what is written, under which name, and what is read back.

COMPARISON/plan.json         what is compared; its existence marks the folder as a comparison
COMPARISON/runs/NAME/        a run folder per trained system and seed
COMPARISON/users/SPLIT/      figures of each user, a Parquet file per run and per baseline
COMPARISON/comparison.json   what came of it, written last
COMPARISON/table.md, table.tex
"""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.records import Record

PLAN = "plan.json"
RESULT = "comparison.json"
MARKDOWN, LATEX = "table.md", "table.tex"


class Plan(Record):
    """`plan.json`: what is compared.

    Attributes:
        data, checksum: the dataset.
        systems: those that are trained; each has `seeds` runs.
        settings: `section.key=value` of all runs.
    """

    data: str
    checksum: str
    systems: list[str]
    baselines: list[str]
    seeds: PositiveInt
    settings: list[str]


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


class SplitFigures(Record):
    """What came of a split.

    Attributes:
        users: number of users with interactions in the split; others do not count.
        systems: by name, baselines first.
    """

    users: NonNegativeInt
    systems: dict[str, SystemFigures]


class Comparison(Record):
    """`comparison.json`: what came of a comparison.

    Attributes:
        dataset: its name.
        data, checksum: its address and checksum.
        metric: decides which epoch of a run is best, and is what is tested.
        reference: the system that the others are tested against.
        left_out: baselines that could not be computed, and why.
        splits: `valid` and, if it was asked for, `test`.
    """

    dataset: str
    data: str
    checksum: str
    metric: str
    reference: str
    left_out: dict[str, str]
    splits: dict[str, SplitFigures]


def check_folder(folder: Folder, checksum: str) -> None:
    """Refuse a folder that holds anything but a comparison on the dataset with this checksum."""
    if not folder.exists(PLAN):
        if not folder.is_empty():
            raise AdarError(f"{folder}: is not empty, and not a comparison; choose another folder for --out")
        return
    plan = folder.read_record(PLAN, Plan, "choose another folder for --out")
    if plan.checksum != checksum:
        raise AdarError(
            f"{folder}: holds a comparison on another dataset, {plan.data} as it was then; "
            "choose another folder for --out"
        )
