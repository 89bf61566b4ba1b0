"""Which run is published: one small file, replaced as a whole, and only by a run that is at least as good."""

from __future__ import annotations

from pathlib import Path

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.records import Record
from adar_ray.training.run import Run

PUBLISHED = "published.json"


class Published(Record):
    """`published.json`: the published run.

    Attributes:
        run: address of the run.
        metric: validation metric that runs are compared by.
        value: what the run reached.
        recommendations: address of the recommendations that it made.
    """

    run: str
    metric: str
    value: float
    recommendations: str | None


class Publication(Published):
    """What `publish` did; `run` to `recommendations` describe the run that is now published.

    Attributes:
        published: whether that is the given run.
        offered: validation value of the given run.
    """

    published: bool
    offered: float


def publish(run: str | Path | Run, to: str | Path, recommendations: str | None = None) -> Publication:
    """Publish a finished run, unless the published one is better on validation.

    Runs are compared by the run's `train.metric`.

    Args:
        to: address of the folder whose `published.json` names the published run.
        recommendations: address of the recommendations that this run made.

    Raises:
        AdarError: the run is not finished or has no validation metrics, or the published run was judged by
            another metric.
    """
    run = Run.open(run, trust=True)  # nothing here runs its code
    metric, result = run.config.train.metric, run.result()
    if result is None:
        raise AdarError(
            f"{run.folder}: is not finished; continue with `adar-ray train --resume {run.folder}`"
        )
    if result.valid is None or metric not in result.valid:
        raise AdarError(
            f"{run.folder}: has no validation metrics to judge it by; "
            "prepare its data again with a larger --valid-fraction or --core, or by leave-one-out"
        )
    folder = Folder.at(to)
    new = Published(
        run=run.folder.address,
        metric=metric,
        value=result.valid[metric],
        recommendations=recommendations,
    )
    old = _read(folder)
    if old is not None and old.metric != metric:
        raise AdarError(
            f"{folder}/{PUBLISHED}: the published run was judged by {old.metric}, {run.folder} by {metric}; "
            "train by the same metric, or remove the file to publish any run"
        )
    published = old is None or new.value >= old.value  # never a run whose value is not a number
    if published:
        folder.write_record(PUBLISHED, new)
    current = new if published or old is None else old
    return Publication(**current.model_dump(), published=published, offered=new.value)


def _read(folder: Folder) -> Published | None:
    if not folder.exists(PUBLISHED):
        return None
    return folder.read_record(PUBLISHED, Published, "remove it to publish any run")
