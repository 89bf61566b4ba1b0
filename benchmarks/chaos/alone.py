"""Faults of commands that run in one process: signals, a second driver, a full disk, damaged files."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from benchmarks.chaos.damage import damage
from benchmarks.chaos.lab import ALONE, SETTINGS, Lab, preparing, training
from benchmarks.chaos.life import (
    END_SECONDS,
    INTERRUPT,
    KILL,
    PAUSE,
    TERMINATE,
    TWIN,
    Fault,
    Kind,
    Life,
    Place,
)
from benchmarks.chaos.outages import MODES
from benchmarks.chaos.processes import wait_until
from benchmarks.chaos.promises import BrokenError, check_words, files

_KINDS = (KILL, TERMINATE, INTERRUPT, PAUSE, TWIN)
_ODDS = (4, 3, 2, 1, 2)


def _fill_disk(life: Life) -> None:
    """Fills the disk until the command has ended of it."""
    filler = Path(life.out).parents[1] / "filler"
    try:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        life.command.wait(END_SECONDS)
    finally:
        filler.unlink()


FULL_DISK = Kind("a full disk", _fill_disk, (1,), 0)


def kinds(lab: Lab, random: Random, most: int) -> list[Kind]:
    """What happens to a command while it runs, one after the other."""
    wanted = random.choices(_KINDS, _ODDS, k=random.randint(1, most))
    return [FULL_DISK if lab.disk and random.random() < 0.15 else kind for kind in wanted]


def train(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    """A training that is struck while it runs; its files are damaged while it does not."""
    work = training(random.choice(list(SETTINGS)))
    with lab.life(work, ALONE, name, random, faults) as life:
        if random.random() < 0.5:
            if life.suffer([*kinds(lab, random, 2), KILL], rests=True):
                run, data = Path(life.out), life.folder / "data"
                words = ["train", "--resume", str(run)] if (run / "config.yaml").exists() else life.words
                damaged(life, [*_parts(run, "tensorboard"), *_parts(data)], words)
                life.check_whole()
        else:
            life.suffer(kinds(lab, random, 4))
        if random.random() < 0.4:
            _damage_model(life)


def prepare(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    with lab.life(preparing("large"), ALONE, name, random, faults) as life:
        life.suffer(kinds(lab, random, 4))


def train_into_bucket(lab: Lab, random: Random, name: str, faults: list[Fault]) -> None:
    """A training whose run is on an object store that fails for a while."""
    bucket = lab.bucket

    def fail(mode: str) -> Kind:
        def strike(life: Life) -> None:
            bucket.mode = mode
            wait_until(lambda: life.command.status is not None, life.random.uniform(1, 20))
            bucket.mode = None

        return Kind(f"object storage: {mode}", strike, (1,))

    place = Place(environment=bucket.environment, pause=0.3)
    outages = [fail(random.choice(MODES)) for _ in range(random.randint(1, 3))]
    with lab.life(training("mf"), place, name, random, faults, bucket=bucket) as life:
        life.suffer(outages)


def _damage_model(life: Life) -> None:
    """Damages files of a finished run, and reads it."""
    run, top = life.out, life.folder / "top"
    words = ["evaluate", run, "--json"]
    if life.random.random() < 0.5:
        words = ["recommend", run, "--out", str(top), "--replace"]

    def result() -> object:
        return life.command.output if words[0] == "evaluate" else files(top)

    damaged(life, [], words)
    expected = result()
    accepted = damaged(life, _parts(Path(run), "tensorboard", "checkpoints", "evaluation"), words)
    if result() != expected:
        for fault in accepted:
            fault.lost = f"{words[0]} was silently different"
        raise BrokenError


def damaged(life: Life, candidates: Sequence[Path], words: Sequence[str]) -> list[Fault]:
    """Damages up to three files, and starts a command until it has finished.

    A file that it refuses by name is restored. The others, if any, it has accepted: what it has written has
    to be as if they were not damaged.

    Returns:
        The faults that it has accepted.
    """
    chosen = life.random.sample(candidates, min(len(candidates), life.random.randint(1, 3)))
    pending = {path: damage(life.random, path) for path in chosen}
    faults = {
        path: Fault(life.work.name, found.kind, f"{'/'.join(path.parts[-2:])}, before {words[0]}")
        for path, found in pending.items()
    }
    life.faults += faults.values()
    try:
        while True:
            life.command = life.start(words)
            if life.command.wait(END_SECONDS) is None:
                raise BrokenError(f"had not ended after {END_SECONDS:g} s")
            if life.command.status == 0:
                break
            message = check_words(life.command)
            named = [path for path in pending if path.name in message or f"{path.parent}:" in message]
            if life.command.status != 1 or not named:
                raise BrokenError(f"ended with status {life.command.status}: {message}")
            pending.pop(named[0]).undo()
            faults[named[0]].outcome = "refused by name"
    except BrokenError as broken:
        for path in pending:
            faults[path].lost = str(broken)
        raise
    for path in pending:
        faults[path].outcome = "accepted, the same result"
    return [faults[path] for path in pending]


def _parts(folder: Path, *but: str) -> list[Path]:
    """The files in a folder, without those of some folders in it; none is empty."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.stat().st_size and not {*but} & {*path.relative_to(folder).parts}
    )
