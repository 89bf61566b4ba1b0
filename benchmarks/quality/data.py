"""The data sets of the tables, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adar_ray import prepare
from adar_ray.data.dataset import Dataset
from adar_ray.data.synthetic import synthesize

SYNTHETIC = "synthetic"
_WORLD = {"users": 2000, "items": 2000, "interactions": 60_000, "seed": 0}

# Of the splits as published, a tenth of training is held out to choose by.
_GIVEN: dict[str, Any] = {"valid_fraction": 0.1}
DATA: dict[str, dict[str, Any]] = {
    "phone": _GIVEN,
    "beauty": _GIVEN,
    "ml-1m": _GIVEN,
    "gowalla": _GIVEN,
    "ml-100k": {"split": "ratio"},
}
# The last item of each user is to be found. Of video games most have few, and padding costs as much.
LAST: dict[str, dict[str, Any]] = {
    "ml-100k": {"split": "leave-one-out"},
    "video-games": {"split": "leave-one-out", "sequence_length": 20},
}


def dataset_of(name: str, sources: Path, work: Path, options: dict[str, Any]) -> Dataset:
    """The data set from its folder as published, prepared with `options` where it is not there yet."""
    out = work / "data" / "-".join([name, *map(str, options.values())])
    if out.exists():
        return Dataset.open(out)
    if name == SYNTHETIC:
        return synthesize(**_WORLD, out=out)
    if not (sources / name).exists():
        raise SystemExit(
            f"--sources {sources}: has no folder {name}; put it there as published, or choose by --data"
        )
    return prepare(sources / name, out, **options)
