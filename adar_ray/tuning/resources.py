"""What trials reserve, and whether the cluster has it."""

from __future__ import annotations

import ray

from adar_ray.process import check_threads
from adar_ray.ray_address import ray_address
from adar_ray.ray_session import DATA_CPUS, check_room, fitting
from adar_ray.training.ray_workers import needs_of_worker, reserved_by_worker
from adar_ray.tuning.folder import Search


def trial_resources(search: Search) -> dict[str, float]:
    """What the trial's own process reserves; several workers are a group with resources of their own."""
    if search.workers > 1:
        return {"cpu": 0.01}
    return {name.lower(): amount for name, amount in _reserved(search).items()}


def local_cpus(search: Search) -> int:
    """The CPUs that a Ray started on this machine needs."""
    return (search.concurrent or 1) * _group_cpus(search)


def room(search: Search) -> int:
    """How many trials fit the cluster at a time."""
    there = dict(ray.cluster_resources())
    if search.workers > 1:  # groups that wait for each other's workers would never start
        return max(1, int((there.get("CPU", 0) - 1) // _group_cpus(search)))
    there["CPU"] = there.get("CPU", 0) - (DATA_CPUS if ray_address() is None else 0)
    # With an autoscaler there may be nothing yet.
    return max(1, min(fitting(there.get(name, 0), amount) for name, amount in _reserved(search).items()))


def _reserved(search: Search) -> dict[str, float]:
    """By each of a trial's workers."""
    return reserved_by_worker(search.config({}).train, search.workers)


def _group_cpus(search: Search) -> int:
    return search.workers * search.config({}).train.threads


def check_resources(search: Search) -> None:
    """Refuses at once what the cluster can never give; Ray would wait for it forever."""
    train = search.config({}).train
    if ray_address() is None:
        check_threads(train.threads)
    check_room(needs_of_worker(train), search.workers, "--workers-per-trial")
