"""Damaged files of a run or a dataset, between two starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

KINDS = ("a flipped bit", "flipped bits", "a cut file", "a removed file", "zeros in a file")
_ODDS = (6, 1, 2, 2, 1)


@dataclass(frozen=True)
class Damage:
    """A file that has been damaged, and what it was."""

    kind: str
    path: Path
    before: bytes

    def undo(self) -> None:
        self.path.write_bytes(self.before)


def damage(random: Random, path: Path) -> Damage:
    """Damages a file, which must not be empty, in a random way."""
    before = path.read_bytes()
    (kind,) = random.choices(KINDS, _ODDS)
    after = bytearray(before)
    if kind == "a removed file":
        path.unlink()
        return Damage(kind, path, before)
    if kind == "a cut file":
        del after[random.randrange(len(after)) :]
    elif kind == "zeros in a file":
        start = random.randrange(len(after))
        while start and not any(after[start : start + 512]):
            start //= 2
        after[start : start + 512] = bytes(len(after[start : start + 512]))
    else:
        for _ in range(1 if kind == "a flipped bit" else random.randint(2, 20)):
            after[random.randrange(len(after))] ^= 1 << random.randrange(8)
    path.write_bytes(after)
    return Damage(kind, path, before)
