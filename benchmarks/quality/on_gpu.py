"""Runs the cells of the fair tables that two CPU cores take days for on a GPU, many at once.

    python -m benchmarks.quality.on_gpu --sources path/to/data --work scratch/ --minutes 13

A trial leaves most of a GPU idle, so as many cells train at once as there are cores: several times as fast if
NVIDIA's MPS runs (`nvidia-cuda-mps-control -d`). Trials that have ended stay in the work folder; others can
go on. Nothing is written into `results/`: `quality.tables` with the same `--work`, on whatever machine, runs
what is left and does that.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from adar_ray.data.dataset import Dataset
from adar_ray.errors import TerminatedError
from benchmarks.arguments import add_sources, argument_parser
from benchmarks.quality.cells import tune_and_test
from benchmarks.quality.data import prepared
from benchmarks.quality.tables import TABLES, cell_of

# What decides most comes first. MF with BPR is cheap enough for a CPU.
CELLS = [
    (table, model, data, sampler)
    for table, model, data in (
        ("fair_softmax", "mf", "ml-100k"),
        ("fair_softmax", "lightgcn", "ml-100k"),
        ("fair_softmax", "mf", "beauty"),
        ("fair_softmax", "lightgcn", "beauty"),
        ("fair_pairwise", "lightgcn", "ml-100k"),
        ("fair_pairwise", "lightgcn", "beauty"),
        ("fair_softmax", "mf", "phone"),
        ("fair_softmax", "lightgcn", "phone"),
        ("fair_pairwise", "mf", "phone"),
        ("fair_pairwise", "lightgcn", "phone"),
    )
    for sampler in TABLES[table].samplers
]
_SAVING_SECONDS = 30.0


def main() -> None:
    parser = argument_parser(__doc__)
    add_sources(parser)
    parser.add_argument("--minutes", type=float, default=13.0, help="when to stop")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="cells, one process each")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    waiting, running, failed = list(CELLS), dict[str, SpawnProcess](), list[str]()
    while (waiting or running) and time.monotonic() < deadline:
        while waiting and len(running) < arguments.at_once:
            table, model, data, sampler = waiting.pop(0)
            dataset = prepared(data, arguments.sources, arguments.work, TABLES[table].data[data])
            cell = (table, model, data, sampler)
            process = multiprocessing.get_context("spawn").Process(
                target=_run, args=(cell, dataset.folder.address, arguments.work)
            )
            process.start()
            running["-".join(cell)] = process
        time.sleep(0.2)
        for name, process in list(running.items()):
            if process.exitcode is not None:
                print(name, "has ended" if process.exitcode == 0 else "has failed", flush=True)
                failed += [name] if process.exitcode else []
                del running[name]
    for process in running.values():
        process.terminate()  # a training saves where it is
    for process in running.values():
        process.join(_SAVING_SECONDS)
        process.kill()
    print(f"stopped: {len(running)} cells are not finished, {len(waiting)} have not begun", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run(cell: tuple[str, str, str, str], dataset: str, work: Path) -> None:
    """Tunes and tests one cell, in a process of its own."""
    torch.set_num_threads(1)
    table, model, data, _ = cell
    with contextlib.suppress(TerminatedError):
        tune_and_test(cell_of(*cell), Dataset.open(dataset), work, TABLES[table].effort_on(model, data).seeds)


if __name__ == "__main__":
    main()
