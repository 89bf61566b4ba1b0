"""What trials reserve, and whether the cluster has it."""

from __future__ import annotations

import math
import os

import ray

from adar_ray.errors import AdarError
from adar_ray.ray_session import DATA_CPUS
from adar_ray.tuning.folder import Search


def trial_resources(search: Search) -> dict[str, float]:
    """What the trial's own process reserves; several workers are a group with resources of their own."""
    if search.workers > 1:
        return {"cpu": 0.01}
    return {"cpu": search.space.resources.cpu, "gpu": search.space.resources.gpu}


def local_cpus(search: Search) -> int:
    """The CPUs that a Ray started on this machine needs."""
    if search.workers > 1:
        return (search.concurrent or 1) * _group_cpus(search)
    return math.ceil((search.concurrent or 1) * search.space.resources.cpu)


def room(search: Search) -> int:
    """How many trials fit the cluster at a time."""
    cpus = ray.cluster_resources().get("CPU", 0)
    if search.workers == 1:
        cpus -= 0 if os.environ.get("RAY_ADDRESS") else DATA_CPUS
        return max(1, math.floor(cpus / search.space.resources.cpu))
    # Groups that wait for each other's workers would never start.
    return max(1, int((cpus - 1) // _group_cpus(search)))


def _group_cpus(search: Search) -> int:
    return search.workers * search.config({}).train.threads


def check_resources(search: Search) -> None:
    """Refuse at once what the cluster can never give; Ray would wait for it forever."""
    need: dict[str, float] = {"CPU": search.space.resources.cpu, "GPU": search.space.resources.gpu}
    if search.workers > 1:
        need["CPU"] = search.config({}).train.threads
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, amount in need.items():
        largest = max((node.get(name, 0) for node in nodes), default=0)
        if amount > largest:
            raise AdarError(
                f"resources.{name.lower()} {amount:g}: no machine of the cluster has more than {largest:g} "
                f"{name}s; ask for less"
            )
        total = sum(node.get(name, 0) for node in nodes)
        if amount * search.workers > total:
            raise AdarError(
                f"--workers-per-trial {search.workers}: needs {amount * search.workers:g} {name}s, "
                f"but the cluster has {total:g}; ask for less"
            )
