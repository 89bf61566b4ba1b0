"""Faults of commands that run on Ray: one that they start on this machine, or a cluster of three nodes."""

from __future__ import annotations

import dataclasses
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
RAYLET = r"/raylet/raylet "
# What belongs to no command: processes of a node, and Ray Data's actors, which serve whoever comes next.
BUSY = r"^ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent|_[A-Z])"
LOCAL = Place(prefix=[])
HEAD_SECONDS = 120.0
_VICTIM_SECONDS = 120.0


def _victim(life: Life, find: Callable[[], Sequence[Seen]]) -> Seen | None:
    """One of the processes, once there are any; None if the command ends before."""
    found: list[Seen] = []

    def is_there() -> bool:
        found[:] = find()
        return bool(found) or life.command.status is not None

    if not wait_until(is_there, _VICTIM_SECONDS, 0.1):
        raise BrokenError(f"nothing to kill came up within {_VICTIM_SECONDS:g} s")
    return life.random.choice(found) if found else None


def _signal(number: signal.Signals, find: Callable[[Life], Sequence[Seen]]) -> Callable[[Life], None]:
    """Sends a signal to one of the processes."""

    def strike(life: Life) -> None:
        victim = _victim(life, lambda: find(life))
        if victim is not None:
            victim.send(number)

    return strike


def _of_command(title: str) -> Callable[[Life], Sequence[Seen]]:
    """Processes of this title that a command has started on this machine."""
    return lambda life: marked(life.mark, title)


def _pause_worker(life: Life) -> None:
    victim = _victim(life, lambda: marked(life.mark, WORKER))
    if victim is not None:
        victim.send(signal.SIGSTOP)
        time.sleep(life.random.uniform(0.5, 3.0))
        victim.send(signal.SIGCONT)


ON_WORKERS: dict[Kind, float] = {
    Kind("SIGKILL of a worker", _signal(signal.SIGKILL, _of_command(WORKER))): 5,
    Kind("SIGTERM of a worker", _signal(signal.SIGTERM, _of_command(WORKER))): 2,
    Kind("SIGSTOP of a worker for a while", _pause_worker): 1,
    Kind("SIGKILL of the raylet", _signal(signal.SIGKILL, _of_command(RAYLET)), (1,), 30): 2,
    Kind("SIGKILL of the GCS", _signal(signal.SIGKILL, _of_command("/gcs_server ")), (1,), 60): 1,
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
    work = training(random.choice(("mf", "mf, streamed")), random.choice((1, 2, 2, 3, 3)), epochs=12)
    with lab.life(work, LOCAL, name, random, faults) as life:
        life.suffer(_chosen(random, ON_WORKERS, 3))


def search(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    with lab.life(searching(), LOCAL, name, random, faults) as life:
        life.suffer(_chosen(random, ON_WORKERS, 2))


# On a cluster of three nodes.


def _place(cluster: Cluster) -> Place:
    """The head, with all nodes."""
    cluster.repair()

    def left(mark: str) -> list[Seen]:
        return [*marked(mark), *cluster.processes(BUSY)]

    return Place(cluster.environment, cluster.prefix, left, pause=0.1)


def _kinds(cluster: Cluster, **titles: str) -> dict[Kind, float]:
    """SIGKILL of what has these titles, and what happens to nodes."""

    def kill(title: str) -> Callable[[Life], None]:
        return _signal(signal.SIGKILL, lambda life: cluster.processes(title))

    def kill_node(life: Life) -> None:
        """A node that works, if one does, but not the head."""

        def busy() -> list[int]:
            return [number for number in range(1, NODES) if cluster.processes(BUSY, [number])]

        wait_until(lambda: busy() or life.command.status is not None, _VICTIM_SECONDS, 0.1)
        cluster.kill([life.random.choice(busy() or range(1, NODES))])

    def kill_head(life: Life) -> None:
        """What runs ends with the head, which comes back empty."""
        cluster.kill([0])
        life.command.wait(HEAD_SECONDS)
        cluster.repair()

    def cut(life: Life) -> None:
        assert cluster.cables is not None
        number = life.random.randrange(1, NODES)
        cluster.cables.switch(number, on=False)
        time.sleep(life.random.choice((2, 5, 30)))
        cluster.cables.switch(number, on=True)

    kinds = {
        Kind("SIGKILL of a node", kill_node, (1,)): 3.0,
        Kind("SIGKILL of the head", kill_head, (1,), 0): 1.0,
    }
    if cluster.cables is not None:
        kinds[Kind("a cut network", cut, (1,))] = 3.0
    return kinds | {
        Kind(f"SIGKILL of {name.replace('_', ' ')}", kill(title)): 2.0 for name, title in titles.items()
    }


def train_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    work = training(random.choice(("mf", "mf, streamed")), random.choice((1, 2, 3)), epochs=12)
    work = dataclasses.replace(work, name=f"{work.name}, on a cluster", same_as=work.same_as or work)
    kinds = _kinds(lab.cluster, a_worker=WORKER) | {KILL: 1, TERMINATE: 1, INTERRUPT: 1}
    with lab.life(work, _place(lab.cluster), name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))


def prepare_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    work = preparing("large")
    work = dataclasses.replace(work, name=f"{work.name}, on a cluster", same_as=work)
    kinds = _kinds(lab.cluster, a_task=BUSY) | {KILL: 1}
    with lab.life(work, _place(lab.cluster), name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))


def job_on_cluster(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    """A job, whose driver or supervisor ends it, and who has submitted it then does so again."""
    kinds = _kinds(
        lab.cluster,
        a_worker=WORKER,
        the_supervisor="^ray::JobSupervisor",
        the_driver=r"adar_ray\.cluster\.driver",
        the_step=r"adar_ray\.cli\.step",
    )
    ends = ("SIGKILL of the supervisor", "SIGKILL of the driver")
    kinds = {
        dataclasses.replace(kind, statuses=(1, KILLED)) if kind.name in ends else kind: odds
        for kind, odds in kinds.items()
    }
    with lab.life(job("mf", random.choice((1, 2))), _place(lab.cluster), name, random, faults) as life:
        life.suffer(_chosen(random, kinds, 2))
