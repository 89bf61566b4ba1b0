"""Seconds from the start of `adar-ray train` to its first step, on one core, with 0, 1 and 2 workers.

    python -m benchmarks.speed.startup --work scratch/

The data is tiny: an epoch is a single step, whose end is the first line of the run's metrics.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from adar_ray.training.run import METRICS
from benchmarks import record
from benchmarks.arguments import add_work, argument_parser
from benchmarks.speed import ours, synthetic
from benchmarks.speed.measure import one_core, spread

TINY = (200, 100, 2_000)
"""Users, items and interactions."""
_LONGEST = 180.0


def main() -> None:
    parser = argument_parser(__doc__)
    add_work(parser)
    parser.add_argument("--rounds", type=int, default=2, help="runs with each number of workers")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    one_core()
    work = arguments.work.resolve()
    dataset = synthetic.dataset(work, *TINY)
    seconds: dict[str, list[float]] = {f"workers-{workers}": [] for workers in arguments.workers}
    for number in range(arguments.rounds + 1):
        for workers in arguments.workers:
            taken = _first_step(dataset.folder.address, work / "runs" / "startup", workers)
            print(f"{workers} workers: {taken:.1f} s", flush=True)
            if number:  # the first reads everything from disk
                seconds[f"workers-{workers}"].append(taken)
    figures: dict[str, Any] = {"seconds": {name: spread(taken) for name, taken in seconds.items()}}
    record.write(
        "speed_startup",
        figures,
        description="Seconds from the start of `adar-ray train` to the end of its first step, tiny data, one "
        "core.",
        seeds=[0],
    )


def _first_step(data: str, run: Path, workers: int) -> float:
    """Seconds until the run has metrics. The command is then ended as by Ctrl-C."""
    metrics = run / METRICS
    metrics.unlink(missing_ok=True)
    options = ["--workers", str(workers), "--replace"]
    options += ["--set", "model.name=mf", "--set", "train.epochs=1"]
    started = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(
            [*ours.COMMAND, "train", "--data", data, "--out", str(run), *options],
            stdout=nowhere,
            stderr=nowhere,
        )
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() not in (None, 0) or time.perf_counter() - started > _LONGEST:
                raise SystemExit(f"adar-ray train with {workers} workers wrote no {METRICS}; see it alone")
            time.sleep(0.005)
        return time.perf_counter() - started
    finally:
        try:
            process.wait(60)  # it has nothing left to do but to stop Ray
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()


if __name__ == "__main__":
    main()
