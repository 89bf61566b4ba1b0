"""Which model is in place: one small file that is replaced as a whole, and only for the better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.run import Run

PUBLISHED = "published.json"


def publish(run: str | Path | Run, to: str | Path, recommendations: str | None = None) -> dict[str, Any]:
    """Puts a finished run in place, unless what is in place is better on validation.

    The figure is that of the run's `train.metric`. A run that is in place already stays there.

    Args:
        to: address of the folder whose `published.json` says what is in place.
        recommendations: address of what `recommend` wrote with this run.

    Returns:
        `published`, whether the run is in place now; `run, metric, value, recommendations` of what is in
        place; and `offered`, the value of the run in question.

    Raises:
        AdarError: the run is not finished or has no validation figures, or what is in place has none by the
            same metric.
    """
    run = Run.open(run)
    metric, result = run.config.train.metric, run.result()
    if result is None:
        raise AdarError(f"{run.folder}: is not finished; go on with `adar-ray train --resume {run.folder}`")
    if not result.valid:
        raise AdarError(
            f"{run.folder}: has no figures on validation to be judged by; "
            "prepare its data with --valid-fraction 0.1"
        )
    folder = Folder.at(to)
    new = {
        "run": run.folder.address,
        "metric": metric,
        "value": result.valid[metric],
        "recommendations": recommendations,
    }
    old = folder.read_json(PUBLISHED) if folder.exists(PUBLISHED) else None
    if old is not None and old["metric"] != metric:
        raise AdarError(
            f"{folder}/{PUBLISHED}: what is in place was judged by {old['metric']}, "
            f"{run.folder} by {metric}; train by the same metric, or remove the file to publish any model"
        )
    is_good_enough = old is None or new["value"] >= old["value"]
    if is_good_enough:
        folder.write_json(PUBLISHED, new)
    return {"published": is_good_enough, "offered": new["value"], **(new if is_good_enough else old)}
