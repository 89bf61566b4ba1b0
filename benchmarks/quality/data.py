"""The datasets of the tables, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adar_ray import prepare
from adar_ray.data.dataset import Dataset
from adar_ray.data.synthetic import synthesize

SYNTHETIC = "synthetic"
_WORLD = {"users": 2000, "items": 2000, "interactions": 60_000, "seed": 0}

SPLIT_ANEW: dict[str, Any] = {"split": "ratio"}
# Where the split is published, a tenth of training is held out for validation.
_GIVEN: dict[str, Any] = {"valid_fraction": 0.1}
DATA: dict[str, dict[str, Any]] = {
    "phone": _GIVEN,
    "beauty": _GIVEN,
    "ml-1m": _GIVEN,
    "gowalla": _GIVEN,
    "ml-100k": SPLIT_ANEW,
}
"""Options of `prepare`, by dataset."""

LEAVE_ONE_OUT: dict[str, dict[str, Any]] = {
    "ml-100k": {"split": "leave-one-out"},
    # Most users of video games have short histories, and padding costs as much as items do.
    "video-games": {"split": "leave-one-out", "sequence_length": 20},
}
"""The same for sequential models, which predict each user's last item."""

FAIR: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, SPLIT_ANEW) for name in ("ml-100k", "ml-1m", "phone", "beauty", "video-games", "gowalla")
    },
    "video-games-by-time": ("video-games", {"split": "leave-one-out"}),
}
"""Source and options: all interactions split anew. A published split may hold out other interactions for test
than its training part has, and validation that is carved out of that is not like test."""


def prepared(name: str, sources: Path, work: Path, options: dict[str, Any]) -> Dataset:
    """The dataset, prepared from `sources/NAME` with these options unless `work` has it already."""
    out = work / "data" / "-".join([name, *map(str, options.values())])
    if out.exists():
        return Dataset.open(out)
    if name == SYNTHETIC:
        return synthesize(**_WORLD, out=out)
    if not (sources / name).exists():
        raise SystemExit(
            f"--sources {sources}: has no folder {name}; put the published files of {name} there, "
            "or choose other datasets with --data"
        )
    return prepare(sources / name, out, **options)
