"""A hundred million interactions of a million users and a million items, from a source to recommendations.

    python -m benchmarks.speed.hundred_million --work scratch/

prepare, train on two workers, and recommend to a tenth of the users, each a process of its own: seconds, and
the most memory of all processes together, which has to stay within 8 GiB. To rank a million items for every
user takes an hour, and no more memory. Needs two cores and 30 GB of disk.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.speed import ours, synthetic
from benchmarks.speed.measure import ProcessError, ceiling, one_thread, run_process, short

USERS = ITEMS = 1_000_000
RANKED_USERS = 100_000


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--rows", type=int, default=100_000_000, help="interactions; fewer to try it out")
    arguments = parser.parse_args()
    one_thread()
    work = arguments.work.resolve()
    figures: dict[str, Any] = {"ceiling": ceiling(), "rows": {}}
    # By the number of rows, so that a trial with fewer never counts as the real thing.
    steps = figures["rows"][str(arguments.rows)] = {}
    source = synthetic.source(work, USERS, ITEMS, arguments.rows, "parquet")
    data, run, out = work / "hundred-million", work / "runs" / "hundred-million", work / "recommended"
    users = work / "users.txt"
    users.write_text("".join(f"{user}\n" for user in range(RANKED_USERS)))
    settings = [
        *ours.MF,
        *ours.UNIFORM,
        "train.batch_size=65536",
        "train.epochs=1",
        "train.valid_users=10000",
    ]
    chosen = [word for setting in settings for word in ("--set", setting)]
    commands = {
        "prepare": ["prepare", source, "--out", data, "--replace"],
        "train": ["train", "--data", data, "--out", run, "--workers", "2", "--replace", *chosen],
        "recommend": ["recommend", run, "--users", users, "--k", "20", "--out", out, "--replace"],
    }
    for name, command in commands.items():
        with _Memory() as memory:
            try:
                finished = run_process([*ours.COMMAND, *command])
            except ProcessError as error:
                steps[name] = {"error": str(error), "peak_gib": short(memory.peak / 2**30)}
                print(name, steps[name], flush=True)
                break
        steps[name] = {
            "seconds": short(finished.seconds),
            "peak_gib": short(memory.peak / 2**30),
            "peak_of_one_process_gib": short(finished.peak_bytes / 2**30),
        }
        print(name, steps[name], flush=True)
    record.write(
        "speed_hundred_million",
        figures,
        description="Seconds, and the most memory of all processes together, of each command on synthetic "
        "interactions of a million users and a million items, two workers.",
        seeds=[0],
    )


class _Memory:
    """Follows the memory of all descendants of this process together. Pages that they share count once."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, sum(map(_own_memory, _descendants(os.getpid()))))
            time.sleep(0.2)


def _descendants(ancestor: int) -> list[int]:
    """The processes that this one has started, and theirs, from Linux's /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        found = re.search(r"^PPid:\s+(\d+)$", _read(folder / "status"), re.MULTILINE)
        if found:
            parents[int(folder.name)] = int(found[1])
    found_ones = {ancestor}
    while new := {child for child, parent in parents.items() if parent in found_ones} - found_ones:
        found_ones |= new
    return sorted(found_ones - {ancestor})


def _own_memory(process: int) -> int:
    """Bytes of a process's proportional set: what several processes share is divided among them."""
    found = re.search(r"^Pss:\s+(\d+) kB$", _read(Path(f"/proc/{process}/smaps_rollup")), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended meanwhile
        return ""


if __name__ == "__main__":
    main()
