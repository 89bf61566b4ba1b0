"""Ratios of alternating measurements, and what the machine could do at most.

Seconds mean little on a machine that does other work: whatever slows one side slows the other. So both sides
take turns in one run, and the ratio of each round counts.

Legend: N size of a square matrix.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Side = Callable[[], float]
"""Does the work once and returns the seconds it took."""


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, to four digits."""
    numbers = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: short(number) for name, number in numbers.items()}


def alternate(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """The seconds of each side, round by round. Every other round runs in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            seconds[name].append(sides[name]())
    return seconds


def compare(
    seconds: Mapping[str, Sequence[float]], prefix: str = "", ours: str = "ours"
) -> dict[str, dict[str, Any]]:
    """`{"seconds": {side: spread}, "ratios": {other side: spread}}`; above 1 means that ours is faster.

    A ratio is that of the medians; `low` and `high` are the extremes of the rounds.

    Args:
        prefix: of the names in the answer.
    """
    ratios = {}
    for name, theirs in seconds.items():
        if name != ours and theirs and seconds[ours]:
            rounds = [other / own for other, own in zip(theirs, seconds[ours], strict=False)]
            middle = statistics.median(theirs) / statistics.median(seconds[ours])
            ratios[prefix + name] = spread(rounds) | {"median": short(middle)}
    return {
        "seconds": {prefix + name: spread(taken) for name, taken in seconds.items() if taken},
        "ratios": ratios,
    }


def add(figures: dict[str, Any], compared: Mapping[str, Mapping[str, Any]]) -> None:
    """Add an answer of `compare` to the figures of a result."""
    for kind, rows in compared.items():
        figures.setdefault(kind, {}).update(rows)


def short(number: float) -> float:
    """Four digits of it."""
    return float(f"{number:.4g}")


def timed(work: Callable[[], object]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ceiling(device: str = "cpu") -> dict[str, float]:
    """What the device, or a CPU with torch's present threads, can do at most.

    GB/s of a copy, which counts bytes read and bytes written, and GFLOP/s of a matrix product.
    """
    on_gpu = device != "cpu"
    source = torch.ones(1 << (30 if on_gpu else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = best_of(lambda: target.copy_(source), device)
    found = {"copy_gb_per_s": 2 * source.numel() / seconds / 1e9}
    N = 8192 if on_gpu else 1024
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))[: 2 if on_gpu else 1]:
        left, right = (torch.randn(N, N, device=device).to(dtype) for _ in range(2))
        seconds = best_of(lambda left=left, right=right: left @ right, device)
        found[f"gemm_{name}_gflops"] = 2 * N**3 / seconds / 1e9
    return {name: short(number) for name, number in found.items()}


def best_of(work: Callable[[], object], device: str = "cpu", repeats: int = 7) -> float:
    """The shortest of several times, after one to warm up."""
    return min(times_of(work, device, repeats))


def times_of(work: Callable[[], object], device: str = "cpu", repeats: int = 7) -> list[float]:
    """Seconds of each of several repeats, after one to warm up."""

    def once() -> None:
        work()
        if device != "cpu":
            torch.cuda.synchronize()

    once()
    return [timed(once) for _ in range(repeats)]


@dataclass(frozen=True)
class Finished:
    """A process that has ended: how long it ran, and the most memory that it, or one of its children, had."""

    seconds: float
    peak_bytes: int


def run_process(command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end.

    Raises:
        ProcessError: it failed; says what it printed last.
    """
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/printed", "w+") as printed:
        launch = [sys.executable, "-I", "-S", Path(__file__).with_name("launcher.py"), f"{folder}/ended"]
        subprocess.run(
            [*map(str, [*launch, *command])],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(variables or {}),
            check=True,
        )
        ended = json.loads(Path(f"{folder}/ended").read_text())
        if ended.pop("code"):
            printed.seek(0)
            last = (printed.read().strip().splitlines() or ["it printed nothing"])[-1]
            raise ProcessError(last[:300])
    return Finished(**ended)


class ProcessError(Exception):
    """A command that failed."""


def one_thread() -> None:
    """One thread for this process and all that it starts."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    torch.set_num_threads(1)


def one_core() -> None:
    """One thread on one core, the last one, for this process and all that it starts."""
    one_thread()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
