"""Read mutated files of every kind: each has to be read, or refused by an `AdarError`.

    python -m benchmarks.fuzz [TARGET ...] [--inputs 20000] [--seed 0] [--faults fuzz-faults]

Any other exception is a fault. So is an input that takes more than 20 seconds of CPU time or a gigabyte, and
one that ends the process or makes it hang. An input follows from the seed, the target and its number: a rerun
tries the same ones. The first input of each fault is kept in a folder in --faults, with the traceback, and
the exit status is 1.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from adar_ray.errors import AdarError
from benchmarks import record
from benchmarks.arguments import argument_parser
from benchmarks.fuzz_targets import NAMES, Files, Target, targets

NAME = "fuzz"
SECONDS = 20.0  # of CPU time
HANGS = 120.0  # seconds, on a machine that is busy with other things
MEMORY = 1 << 30  # bytes
ADDRESS_SPACE = 4 << 30  # bytes more than before the first input: what asks for more gets a MemoryError
_START_SECONDS = 300.0
_SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None  # every input is written to files


class Outcome(ctypes.Structure):
    """What came of the inputs of a target, in memory that the reading process shares.

    Attributes:
        tried, read, refused, faults: numbers of inputs.
        slowest: seconds of CPU time that the slowest took.
        memory: bytes by which reading them made the process grow.
    """

    _fields_ = (
        ("tried", ctypes.c_int64),
        ("read", ctypes.c_int64),
        ("refused", ctypes.c_int64),
        ("faults", ctypes.c_int64),
        ("slowest", ctypes.c_double),
        ("memory", ctypes.c_int64),
    )


def fuzz(names: Sequence[str], inputs: int, seed: int, faults: Path) -> dict[str, dict[str, Any]]:
    """Try inputs of some targets; returns the figures of each.

    A process of its own reads them. If it ends or hangs, another one goes on behind the input.

    Args:
        names: of targets.
        inputs: how many for each target.
        faults: the folder for inputs that are faults.
    """
    context = multiprocessing.get_context("spawn")
    outcomes = context.Array(Outcome, len(names), lock=False)
    since = context.Value("d", lock=False)
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as scratch:
        while any(outcome.tried < inputs for outcome in outcomes):
            work = Path(tempfile.mkdtemp(dir=scratch))
            since.value = time.monotonic() + _START_SECONDS
            arguments = names, inputs, seed, work, faults, outcomes, since
            process = context.Process(target=_read_all, args=arguments)
            process.start()
            while process.is_alive():
                process.join(0.2)
                if time.monotonic() - since.value > HANGS:
                    process.kill()
            if not process.exitcode:
                break
            if not (work / "input").exists():
                raise RuntimeError("the process that reads the inputs did not start")
            at = max(at for at, outcome in enumerate(outcomes) if outcome.tried)
            outcome, name = outcomes[at], names[at]
            outcome.faults += 1
            problem = f"the process hung, or ended with status {process.exitcode}"
            _keep(faults / f"{name}-{outcome.tried - 1}", work / "input", problem)
    return {
        name: {field: getattr(outcome, field) for field, _ in Outcome._fields_}
        for name, outcome in zip(names, outcomes, strict=True)
    }


def _read_all(
    names: Sequence[str],
    inputs: int,
    seed: int,
    work: Path,
    faults: Path,
    outcomes: Sequence[Outcome],
    since: Any,
) -> None:
    """What the process does that reads the inputs."""
    torch.set_num_threads(1)
    logging.disable()  # a run tells of each checkpoint that it passes over
    (work / "files").mkdir()
    known = targets(work / "files")
    with open("/proc/self/statm") as pages:
        size = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, resource.RLIM_INFINITY))
    seen: set[str] = set()
    for name, outcome in zip(names, outcomes, strict=True):
        before = _peak()
        for number in range(outcome.tried, inputs):
            outcome.tried += 1
            since.value, started = time.monotonic(), time.process_time()
            problem = _read(known[name], f"{seed} {name} {number}", work / "input", outcome)
            seconds = time.process_time() - started
            outcome.slowest = max(outcome.slowest, seconds)
            grown, outcome.memory = outcome.memory, max(outcome.memory, _peak() - before)
            if seconds > SECONDS:
                problem = problem or f"takes {seconds:.0f} s"
            if outcome.memory - grown > MEMORY:
                problem = problem or f"takes {outcome.memory - grown} bytes"
            if problem is not None:
                outcome.faults += 1
                place = f"{name} {problem.strip().rpartition('adar_ray')[2]}"
                if place not in seen:
                    seen.add(place)
                    _keep(faults / f"{name}-{number}", work / "input", problem)


def _read(target: Target, seed: str, folder: Path, outcome: Outcome) -> str | None:
    """Read one input; returns what is wrong, if it is a fault."""
    random = Random(seed)
    _write(folder, target.input(random))
    try:
        target.read(random, folder)
    except AdarError:
        outcome.refused += 1
    except Exception:
        return traceback.format_exc()
    else:
        outcome.read += 1
    return None


def _write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _keep(folder: Path, files: Path, problem: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files, folder)
    (folder / "fault.txt").write_text(problem, encoding="utf-8", errors="backslashreplace")
    print(f"{folder}: {problem.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"some of {', '.join(NAMES)}; default: all"
    )
    parser.add_argument("--inputs", type=int, default=20_000, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs that are faults"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(NAMES):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    figures = fuzz(arguments.targets or NAMES, arguments.inputs, arguments.seed, arguments.faults)
    print(
        f"{'target':<14}{'inputs':>8}{'read':>8}{'refused':>8}{'faults':>8}{'slowest s':>11}{'memory MB':>11}"
    )
    for name, row in figures.items():
        print(
            f"{name:<14}{row['tried']:>8}{row['read']:>8}{row['refused']:>8}{row['faults']:>8}"
            f"{row['slowest']:>11.2f}{row['memory'] / 1e6:>11.0f}"
        )
    record.write(
        NAME,
        record.read_figures(NAME) | figures,
        description="Mutated files of each kind: how many were tried, read, refused, and faults, "
        "the slowest in seconds, and by how many bytes reading them made the process grow.",
        seeds=[arguments.seed],
        packages=["pyarrow", "pydantic", "PyYAML"],
    )
    if any(row["faults"] for row in figures.values()):
        sys.exit(f"faults: see {arguments.faults}")


if __name__ == "__main__":
    main()
