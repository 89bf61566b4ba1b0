"""What trials reserve, and whether the cluster has it."""

from __future__ import annotations

import math

import ray

from adar_ray.errors import AdarError
from adar_ray.process import check_threads
from adar_ray.ray_address import ray_address
from adar_ray.ray_session import DATA_CPUS, Need, check_room
from adar_ray.training.ray_workers import needs_of_worker
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
        cpus -= DATA_CPUS if ray_address() is None else 0
        return max(1, math.floor(cpus / search.space.resources.cpu))
    # Groups that wait for each other's workers would never start.
    return max(1, int((cpus - 1) // _group_cpus(search)))


def _group_cpus(search: Search) -> int:
    return search.workers * search.config({}).train.threads


def check_resources(search: Search) -> None:
    """Refuses at once what the cluster can never give; Ray would wait for it forever."""
    resources, train = search.space.resources, search.config({}).train
    if ray_address() is None:
        check_threads(train.threads)
    if search.workers > 1:
        needs = needs_of_worker(train)
    else:
        needs = [
            Need("CPU", resources.cpu, f"resources.cpu {resources.cpu:g}"),
            Need("CPU", train.threads, f"train.threads={train.threads}"),
            Need("GPU", resources.gpu, f"resources.gpu {resources.gpu:g}"),
        ]
        if train.device == "cuda" and not resources.gpu:
            raise AdarError("train.device=cuda: trials reserve no GPU; add resources: {gpu: 1} to the space")
    check_room(needs, search.workers, "--workers-per-trial")
