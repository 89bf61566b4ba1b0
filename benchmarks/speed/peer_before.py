"""Another commit of this library in a process of its own, from a checkout of it.

It prepares its own dataset, since the format may have changed, and answers with the seconds of an epoch.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.speed.peer_protocol import serve

held: dict[str, Any] = {}


def start(
    checkout: str, source: str, out: str, options: dict[str, Any], settings: list[str]
) -> dict[str, Any]:
    sys.path.insert(0, checkout)  # before anything of adar_ray is imported
    import os

    import adar_ray
    from adar_ray.data.dataset import Dataset

    if not adar_ray.__file__.startswith(checkout):
        raise RuntimeError(f"adar_ray comes from {adar_ray.__file__}")
    if not os.path.exists(f"{out}/data"):
        adar_ray.prepare(source, f"{out}/data", **options)
    held.update(dataset=Dataset.open(f"{out}/data"), run=f"{out}/run", settings=settings)
    return {}


def epoch() -> dict[str, Any]:
    """The second of two epochs of a new run."""
    import adar_ray
    from adar_ray.config import load_config

    settings = [*held["settings"], "train.epochs=2", "train.valid_users=1"]
    run = adar_ray.train(
        held["dataset"], held["run"], load_config(settings=settings), workers=0, replace=True
    )
    return {"seconds": run.epochs()[1].time.train_seconds}


if __name__ == "__main__":
    serve({"start": start, "epoch": epoch})
