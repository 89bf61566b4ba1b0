"""What is broken: sources, datasets, trainings and searches, small ones, and their undisturbed results."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from benchmarks.chaos.life import Fault, Life, Place, Whole, Work
from benchmarks.chaos.processes import Command
from benchmarks.chaos.promises import BrokenError, check_epochs, check_files, check_run, epochs

EPOCHS = 6
_SMALL = ["model.embedding_dim=8", "adar.pool=16", "train.device=cpu", f"train.epochs={EPOCHS}"]
_SMALL += ["train.patience=99", "train.batch_size=48", "optimizer.lr=0.01"]
SETTINGS: dict[str, list[str]] = {
    "mf": [],
    "mf, streamed": ["data.cache=never"],
    "lightgcn": ["model.name=lightgcn", "sampler.name=uniform", "train.batch_size=128"],
    "sasrec": ["model.name=sasrec", "loss.name=sampled_softmax", "train.batch_size=64"],
}
_DISK_BYTES = 64 << 20


def training(name: str, workers: int = 0) -> Work:
    """A training with some of `SETTINGS`."""
    settings = [word for setting in [*_SMALL, *SETTINGS[name]] for word in ("--set", setting)]
    return Work(
        name=f"train, {workers} workers ({name})",
        words=["train", "--data", "{data}", "--out", "{out}", "--workers", str(workers), *settings],
        units=EPOCHS,
        done=lambda run: len(epochs(run)),
        check_part=check_epochs,
        check_whole=check_run,
        uses_ray=workers > 0,
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
        self._wholes: dict[str, Whole] = {}
        self._lock = threading.Lock()
        self.addresses = {"small": str(self.work / "small.csv"), "large": str(self.work / "large.csv")}
        _write_source(Path(self.addresses["small"]), users=300, items=400, rows=6000)
        _write_source(Path(self.addresses["large"]), users=4000, items=2000, rows=150_000)
        self.addresses["data"] = str(self.whole(preparing("small")).folder)
        self.disk = self._mounted()

    def _mounted(self) -> Path | None:
        disk = self.work / "disk"
        disk.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk)]
        return disk if subprocess.run(mount, capture_output=True).returncode == 0 else None

    def close(self) -> None:
        if self.disk is not None:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def whole(
        self, work: Work, environment: Mapping[str, str] | None = None, prefix: Sequence[str] | None = None
    ) -> Whole:
        """The undisturbed result of a work, which is made the first time."""
        key = " ".join(work.words)
        with self._lock:
            number = len(self._wholes)
            if key in self._wholes:
                return self._wholes[key]
        folder = self.work / "whole" / f"{number:02d}-{threading.get_ident()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        began = time.monotonic()
        words = [word.format(**self.addresses, out=folder / "out") for word in work.words]
        command = Command(words, folder / "log", f"whole-{number}", environment, prefix)
        if command.wait(600) != 0:
            raise RuntimeError(f"{work.name} failed undisturbed: {command.messages[-3:]}")
        whole = Whole(folder / "out", time.monotonic() - began)
        with self._lock:
            self._wholes[key] = whole
        return whole

    @contextlib.contextmanager
    def life(
        self,
        work: Work,
        name: str,
        random: Random,
        faults: list[Fault],
        *,
        on_disk: bool = False,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] | None = None,
    ) -> Iterator[Life]:
        """Starts a work in a folder of its own, with a copy of the dataset, which may be damaged.

        The folder stays if a promise is not kept.

        Args:
            faults: where the life's are added.
            on_disk: whether its output is on the small disk.
        """
        whole = self.whole(work, environment, prefix)
        folder = self.lives / name
        data, out = folder / "data", (self.disk if on_disk and self.disk else folder) / name / "out"
        out.parent.mkdir(parents=True)
        shutil.copytree(self.addresses["data"], data)
        place = Place(folder, str(out), lambda: out, name, environment or {}, prefix)
        began, before = time.monotonic(), len(faults)
        life = Life(work, place, {**self.addresses, "data": str(data)}, whole, random, faults)
        try:
            yield life
        except BrokenError as broken:
            new = faults[before:]
            if new and not any(fault.lost for fault in new):
                new[-1].lost = str(broken)
            shutil.copytree(out, folder / "lost", dirs_exist_ok=True) if out.exists() else None
        else:
            shutil.rmtree(folder)
        finally:
            life.end()
            lost = max(time.monotonic() - began - whole.seconds, 0)
            for fault in faults[before:]:
                fault.seconds = lost / len(faults[before:])
            shutil.rmtree(out.parent, ignore_errors=True)


def _write_source(path: Path, users: int, items: int, rows: int) -> None:
    random = Random(0)
    with path.open("w") as file:
        file.write("user,item,timestamp\n")
        for row in range(rows):
            item = int(items * random.random() ** 2)
            file.write(f"u{random.randrange(users)},i{item},{row}\n")
