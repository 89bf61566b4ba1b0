"""Break everything at random moments, and check each time that nothing is lost.

    python -m benchmarks.chaos --work DIR [--minutes 30] [--seed 0]

Trains, searches and prepares on small data, in one process, on Ray's workers, and as jobs on a cluster of
three nodes on this machine. Meanwhile it kills, interrupts and stops processes, cuts networks, fills a disk,
stops an object store and damages files. After each fault, the command is started again as a user would, with
what its message names; the result has to be that of an undisturbed run, bit for bit, with nothing left
behind. Linux only; a small disk and the networks need root, and are left out without.

What is broken follows from the seed; what the moment hits does not. What a lost fault has left is in
DIR/lives. The exit status is 1 if any was lost.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.chaos import alone, on_ray
from benchmarks.chaos.lab import Lab
from benchmarks.chaos.life import Fault
from benchmarks.chaos.report import lines, rows

Case = Callable[[Lab, Random, str, list[Fault]], None]
# Each lane runs one case after the other, chosen by its weight.
LANES: Mapping[str, Mapping[Case, float]] = {
    "alone": {alone.train: 8, alone.prepare: 1, alone.train_into_bucket: 1},
    "ray": {
        on_ray.train: 5,
        on_ray.search: 1,
        on_ray.train_on_cluster: 4,
        on_ray.prepare_on_cluster: 1,
        on_ray.job_on_cluster: 2,
    },
}


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # cleans up
    faults, left_out = chaos(arguments.work, arguments.minutes * 60, arguments.seed)
    for line in lines(rows(faults)):
        print(line)
    record.write(
        "chaos",
        {"faults": [dataclasses.asdict(fault) for fault in faults], "left_out": left_out},
        description="What was broken and when, what came of it, how many seconds that took, and the promise "
        "that was lost, if any was.",
        seeds=[arguments.seed],
    )
    if any(fault.lost for fault in faults):
        sys.exit(f"lost: see {arguments.work / 'lives'}")


def chaos(work: Path, seconds: float, seed: int) -> tuple[list[Fault], list[str]]:
    """Breaks things for so long; returns what was broken, and what cannot be broken here."""
    faults: list[Fault] = []
    lab = Lab(work)
    deadline = time.monotonic() + seconds

    def run(lane: str) -> None:
        cases, number = LANES[lane], 0
        while time.monotonic() < deadline:
            random, name = Random(f"{seed} {lane} {number}"), f"{lane}-{number:03d}"
            (case,) = random.choices(list(cases), list(cases.values()))
            own: list[Fault] = []
            try:
                case(lab, random, name, own)
            except Exception:
                own.append(Fault(name, "the benchmark itself", "", lost=traceback.format_exc()))
            for fault in own:
                print(_line(name, fault), file=sys.stderr, flush=True)
            faults.extend(own)
            number += 1

    threads = [threading.Thread(target=run, args=(lane,), daemon=True) for lane in LANES]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return faults, lab.left_out
    finally:
        lab.close()


def _line(name: str, fault: Fault) -> str:
    verdict = f"LOST: {fault.lost}" if fault.lost else fault.outcome
    return f"{name}  {fault.process}  {fault.kind}  ({fault.moment})  {verdict}"


if __name__ == "__main__":
    main()
