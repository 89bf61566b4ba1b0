"""Faults of commands that run on Ray: one that they start on this machine, or a cluster of three nodes."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import signal
import time
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.chaos.lab import Lab, job, preparing, searching, training
from benchmarks.chaos.life import (
    INTERRUPT,
    KILL,
    KILLED,
    PAUSE,
    TERMINATE,
    TWIN,
    Fault,
    Kind,
    Life,
    Place,
)
from benchmarks.chaos.nodes import NODES, Cluster
from benchmarks.chaos.processes import Seen, marked, wait_until
from benchmarks.chaos.promises import BrokenError

WORKER = r"^ray::(RayTrainWorker|_RayTrainWorker|.*run_trial|ImplicitFunc)"
CONTROLLER = r"^ray::TrainController"
RAYLET = r"/raylet/raylet "
# What belongs to no command: processes of a node, and Ray Data's actors, which serve whoever comes next.
BUSY = r"^ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent|_AutoscalingCoordinatorActor|_StatsActor)"
LOCAL = Place(prefix=[])
HEAD_SECONDS = 120.0
_LOST = (1,)
_VICTIM_SECONDS = 120.0


def _strike(life: Life, find: Callable[[], Sequence[Seen]], number: signal.Signals) -> None:
    """Sends a signal to one of the processes, once there are any and unless the command ends before."""
    found: list[Seen] = []

    def is_there() -> bool:
        found[:] = find()
        return bool(found) or life.command.status is not None

    if not wait_until(is_there, _VICTIM_SECONDS):
        raise BrokenError(f"nothing to kill came up within {_VICTIM_SECONDS:g} s")
    if found:
        life.random.choice(found).send(number)


def kill_of(what: str, title: str, *, ends_within: float | None = None, statuses: Sequence[int] = ()) -> Kind:
    """SIGKILL of one of the processes of this title that a command has started on this machine."""
    return Kind(
        f"SIGKILL of {what}",
        lambda life: _strike(life, lambda: marked(life.mark, title), signal.SIGKILL),
        statuses,
        ends_within,
    )


def _pause_worker(life: Life) -> None:
    found: list[Seen] = []
    _strike(life, lambda: found or found.extend(marked(life.mark, WORKER)[:1]) or found, signal.SIGSTOP)
    time.sleep(life.random.uniform(0.5, 3.0))
    for seen in found:
        seen.send(signal.SIGCONT)


KILL_WORKER = kill_of("a worker", WORKER)
ON_WORKERS: dict[Kind, float] = {
    KILL_WORKER: 5,
    Kind(
        "SIGTERM of a worker",
        lambda life: _strike(life, lambda: marked(life.mark, WORKER), signal.SIGTERM),
    ): 2,
    Kind("SIGSTOP of a worker for a while", _pause_worker): 1,
    kill_of("the raylet", RAYLET, ends_within=30, statuses=_LOST): 2,
    kill_of("the head's GCS", "/gcs_server ", ends_within=60, statuses=_LOST): 1,
    KILL: 3,
    TERMINATE: 2,
    INTERRUPT: 2,
    PAUSE: 1,
    TWIN: 1,
}


def _chosen(random: Random, kinds: dict[Kind, float], most: int) -> list[Kind]:
    return random.choices(list(kinds), list(kinds.values()), k=random.randint(1, most))


def train(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    """A training on the workers of a Ray that the command starts."""
    work = training(random.choice(("mf", "mf, streamed")), random.choice((1, 2, 2, 3, 3)))
    with lab.life(work, LOCAL, name, random, faults) as life:
        life.suffer(_chosen(random, ON_WORKERS, 3))


def search(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    with lab.life(searching(), LOCAL, name, random, faults) as life:
        life.suffer(_chosen(random, ON_WORKERS, 2))


# On a cluster of three nodes.


@functools.cache
def _cluster() -> Cluster:
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster


def _place() -> Place:
    """The head, which has all nodes again."""
    cluster = _cluster()
    cluster.repair()

    def left(mark: str) -> list[Seen]:
        return [*marked(mark), *cluster.processes(BUSY)]

    return Place(cluster.environment, cluster.prefix, left)


def _of_cluster(title: str) -> Callable[[Life], None]:
    return lambda life: _strike(life, lambda: _cluster().processes(title), signal.SIGKILL)


def _kill_node(life: Life) -> None:
    """A node that works, if one does, but not the head."""
    cluster, numbers = _cluster(), range(1, NODES)

    def busy() -> list[int]:
        return [number for number in numbers if cluster.processes(BUSY, [number])]

    wait_until(lambda: busy() or life.command.status is not None, _VICTIM_SECONDS)
    cluster.kill([life.random.choice(busy() or numbers)])


def _kill_head(life: Life) -> None:
    """Everything ends with the head; it comes back empty."""
    cluster = _cluster()
    cluster.kill([0])
    life.command.wait(HEAD_SECONDS)
    cluster.repair()


def _cut_cable(life: Life) -> None:
    cables = _cluster().cables
    assert cables is not None
    number = life.random.randrange(1, NODES)
    cables.switch(number, on=False)
    time.sleep(life.random.choice((2, 5, 30)))
    cables.switch(number, on=True)


NODE = Kind("SIGKILL of a node", _kill_node, _LOST)
HEAD = Kind("SIGKILL of the head", _kill_head, _LOST, 0)
NETWORK = Kind("a cut network", _cut_cable, _LOST)


def _kinds_of_cluster(*more: tuple[Kind, float]) -> dict[Kind, float]:
    kinds = {NODE: 3.0, HEAD: 1.0, **dict(more)}
    return kinds | ({NETWORK: 3.0} if _cluster().cables else {})


def train_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    place = _place()
    work = training(random.choice(("mf", "mf, streamed")), random.choice((1, 2, 3)))
    worker = Kind("SIGKILL of a worker", _of_cluster(WORKER))
    kinds = _kinds_of_cluster((worker, 3), (KILL, 1), (TERMINATE, 1), (INTERRUPT, 1))
    work = dataclasses.replace(work, name=f"{work.name}, on the cluster")
    with lab.life(work, place, name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))


def prepare_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    place = _place()
    kinds = _kinds_of_cluster((Kind("SIGKILL of a task", _of_cluster(BUSY)), 3), (KILL, 1))
    work = dataclasses.replace(preparing("large"), name="prepare, on the cluster", same_as=preparing("large"))
    with lab.life(work, place, name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))


def job_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    place = _place()
    kinds = _kinds_of_cluster(
        (Kind("SIGKILL of the job's supervisor", _of_cluster("^ray::JobSupervisor"), (*_LOST, KILLED)), 2),
        (Kind("SIGKILL of the job's driver", _of_cluster(r"adar_ray\.cluster\.driver"), (KILLED,)), 2),
        (Kind("SIGKILL of the job's step", _of_cluster(r"adar_ray\.cli\.step")), 2),
        (Kind("SIGKILL of a worker", _of_cluster(WORKER)), 2),
    )
    with lab.life(job("mf", random.choice((1, 2))), place, name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))
