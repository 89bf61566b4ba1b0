"""What the folder of a run says about its checkpoints, read without the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def places(run: Path) -> list[tuple[int, int]]:
    """Finished epochs, and steps after them, of every checkpoint that counts; oldest first."""
    names = (path.parent.name for path in (run / "checkpoints").glob("*/state.json"))
    return sorted((int(name[:5]), int(name[6:] or 0)) for name in names)


def last_epoch(run: Path) -> int:
    """The last epoch that a checkpoint ends; 0 if none does."""
    return max((epoch for epoch, step in places(run) if step == 0), default=0)


def state(run: Path, epoch: int) -> dict[str, Any]:
    """What the checkpoint says that ends an epoch."""
    return json.loads((run / "checkpoints" / f"{epoch:05d}" / "state.json").read_text())
