"""What is broken: sources, datasets, trainings and searches, small ones, and their undisturbed results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import yaml

from benchmarks.chaos.life import Fault, Life, Place, Whole, Work
from benchmarks.chaos.nodes import Cluster
from benchmarks.chaos.outages import Bucket
from benchmarks.chaos.processes import Command
from benchmarks.chaos.promises import (
    BrokenError,
    check_epochs,
    check_files,
    check_run,
    check_trials,
    epochs_of,
    lines_of,
)

_SMALL = ["model.embedding_dim=8", "adar.pool=16", "train.device=cpu"]
_SMALL += ["train.patience=99", "train.batch_size=48", "optimizer.lr=0.01", "checkpoints.steps=20"]
TRIALS, TRIAL_EPOCHS = 3, 6
_SPACE = {
    "base": {
        "model": {"name": "mf", "embedding_dim": 8},
        "adar": {"pool": 16},
        "train": {"epochs": TRIAL_EPOCHS, "batch_size": 48, "device": "cpu"},
    },
    "parameters": {"optimizer.lr": {"choice": [0.003, 0.01, 0.03]}},
    "search": {"algorithm": "grid"},
    "scheduler": {"name": "none"},
    "budget": {"trials": TRIALS},
}
SETTINGS: dict[str, list[str]] = {
    "mf": ["model.name=mf"],
    "mf, streamed": ["model.name=mf", "data.cache=never"],
    "lightgcn": ["model.name=lightgcn", "sampler.name=uniform", "train.batch_size=128"],
    "sasrec": ["model.name=sasrec", "loss.name=sampled_softmax", "train.batch_size=64"],
}
ALONE = Place()
_DISK_BYTES = 64 << 20


def training(name: str, workers: int = 0, epochs: int = 6) -> Work:
    """A training with some of `SETTINGS`."""
    wanted = [*_SMALL, *SETTINGS[name], f"train.epochs={epochs}"]
    settings = [word for setting in wanted for word in ("--set", setting)]
    return Work(
        name=f"train, {workers} workers ({name})",
        words=["train", "--data", "{data}", "--out", "{out}", "--workers", str(workers), *settings],
        units=epochs,
        done=lambda run: len(epochs_of(run)),
        check_part=check_epochs,
        check_whole=check_run,
        same_as=training(name, 0, epochs) if workers == 1 else None,
        uses_ray=workers > 0,
    )


def job(name: str, workers: int) -> Work:
    """A job that is a training."""
    same = training(name, workers, epochs=12)
    words = same.words[: same.words.index("--workers")], same.words[same.words.index("--workers") + 2 :]
    return dataclasses.replace(
        same,
        name=f"a job, {workers} workers ({name})",
        words=["job", "submit", "{job}", "--name", "{name}", "--wait"],
        same_as=same.same_as or same,
        steps=[shlex.join([*words[0], *words[1]])],
    )


def searching() -> Work:
    """A search of a small grid."""
    return Work(
        name="a search",
        words=["tune", "--data", "{data}", "--space", "{space}", "--out", "{out}", "--concurrent", "1"],
        units=TRIALS * TRIAL_EPOCHS,
        done=lambda search: sum(len(epochs_of(trial)) for trial in search.glob("trials/*")),
        check_part=check_trials,
        check_whole=check_files,
        uses_ray=True,
    )


def preparing(source: str) -> Work:
    """Preparing one of the lab's sources."""
    return Work(
        name="prepare",
        words=["prepare", f"{{{source}}}", "--out", "{out}", "--split", "ratio"],
        units=1,
        done=lambda folder: 0,
        check_part=_check_absent_or_whole,
        check_whole=check_files,
    )


def _check_absent_or_whole(folder: Path, whole: Path) -> None:
    if folder.exists():
        check_files(folder, whole)


class Lab:
    """A folder with sources and undisturbed results.

    Attributes:
        disk: a small disk of its own, or None where none can be mounted.
    """

    def __init__(self, work: Path) -> None:
        self.work = work.absolute()
        self.lives = self.work / "lives"
        shutil.rmtree(self.lives, ignore_errors=True)
        self.lives.mkdir(parents=True)
        self._lives: list[Life] = []
        self._wholes: dict[str, Whole] = {}
        self._lock = threading.Lock()
        self.addresses = {name: str(self.work / name) for name in ("small.csv", "large.csv", "space.yaml")}
        self.addresses = {name.partition(".")[0]: address for name, address in self.addresses.items()}
        Path(self.addresses["space"]).write_text(yaml.safe_dump(_SPACE))
        _write_source(Path(self.addresses["small"]), users=300, items=400, rows=6000)
        _write_source(Path(self.addresses["large"]), users=4000, items=2000, rows=150_000)
        self.addresses["data"] = str(self.whole(preparing("small")).folder)
        self.disk = self._mounted()

    def _mounted(self) -> Path | None:
        disk = self.work / "disk"
        disk.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk)]
        return disk if subprocess.run(mount, capture_output=True).returncode == 0 else None

    @functools.cached_property
    def bucket(self) -> Bucket:
        """An object store."""
        return Bucket()

    @functools.cached_property
    def cluster(self) -> Cluster:
        """A Ray cluster."""
        return Cluster()

    @property
    def left_out(self) -> list[str]:
        """The kinds of faults that are not possible here."""
        has_no_cables = "cluster" in self.__dict__ and self.cluster.cables is None
        return [*(["a cut network"] if has_no_cables else []), *([] if self.disk else ["a full disk"])]

    def close(self) -> None:
        """Ends all that runs still, and gives back what was mounted and connected."""
        for life in self._lives:
            life.end()
        for name in {"bucket", "cluster"} & self.__dict__.keys():
            getattr(self, name).close()
        if self.disk is not None:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def whole(self, work: Work, place: Place = ALONE) -> Whole:
        """The undisturbed result of a work, which is made the first time."""
        if work.same_as is not None:
            return self.whole(work.same_as, place if work.same_as.uses_ray else ALONE)
        key = " ".join(work.words)
        with self._lock:
            if key not in self._wholes:
                self._wholes[key] = self._make_whole(work, place)
            return self._wholes[key]

    def _make_whole(self, work: Work, place: Place) -> Whole:
        folder = self.work / "whole" / f"{len(self._wholes):02d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        words = [word.format(**self.addresses, out=folder / "out") for word in work.words]
        command = Command(words, folder / "log", f"whole-{folder.name}", place.environment, place.prefix)
        if command.wait(600) != 0:
            raise RuntimeError(f"{work.name} failed undisturbed: {command.messages[-3:]}")
        seconds = time.monotonic() - began
        times = [line["time"]["train_seconds"] for line in lines_of(folder / "out")]
        return Whole(folder / "out", seconds, statistics.median(times) if times else seconds / work.units)

    @contextlib.contextmanager
    def life(
        self,
        work: Work,
        place: Place,
        name: str,
        random: Random,
        faults: list[Fault],
        *,
        bucket: Bucket | None = None,
    ) -> Iterator[Life]:
        """Starts a work in a folder of its own, with a copy of the dataset, which may be damaged.

        What runs alone has its output on the small disk, if there is one. The folder stays if a promise is
        not kept.

        Args:
            faults: where the life's are added.
            bucket: where its output is instead.
        """
        whole = self.whole(work, place)
        folder = self.lives / name
        data, out = folder / "data", (folder if place.uses_ray or not self.disk else self.disk / name) / "out"
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.addresses["data"], data)
        addresses = {**self.addresses, "data": str(data), "out": str(out), "name": name}
        addresses["job"] = str(folder / "job.yaml")
        if work.steps:
            steps = [step.format(**addresses) for step in work.steps]
            workers = {"number": int(work.name.split()[2])}
            content = {"storage": str(folder), "steps": steps, "workers": workers, "retries": 2}
            Path(addresses["job"]).write_text(yaml.safe_dump(content))
        look = lambda: out  # noqa: E731
        if bucket is not None:
            addresses["out"] = bucket.address(name)
            look = lambda: bucket.download(name, out)  # noqa: E731
        began, before = time.monotonic(), len(faults)
        life = Life(work, place, folder, addresses, look, whole, random, faults)
        self._lives.append(life)
        try:
            yield life
        except BrokenError as broken:
            new = faults[before:]
            if new and not any(fault.lost for fault in new):
                new[-1].lost = str(broken)
            if out.exists():
                shutil.copytree(out, folder / "lost")
        finally:
            life.end()
            self._lives.remove(life)
            lost = max(time.monotonic() - began - whole.seconds, 0)
            for fault in faults[before:]:
                fault.seconds = lost / len(faults[before:])
            if out.parent != folder:
                shutil.rmtree(out.parent)
        if not any(fault.lost for fault in faults[before:]):
            shutil.rmtree(folder)


def _write_source(path: Path, users: int, items: int, rows: int) -> None:
    random = Random(0)
    with path.open("w") as file:
        file.write("user,item,timestamp\n")
        for row in range(rows):
            item = int(items * random.random() ** 2)
            file.write(f"u{random.randrange(users)},i{item},{row}\n")
