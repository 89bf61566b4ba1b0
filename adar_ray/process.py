"""What the library may take of this machine, and context managers that put back what it changes in a process.

Settings that are meant to last belong in the entry points of the command line and of worker processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from adar_ray.errors import AdarError, counted

GRACE_SECONDS = 30
RAY_MARK = "ADAR_RAY_STARTED_"  # begins the variable that marks processes which end with a Ray session
_SAME_SIGNAL_SECONDS = 1.0


def usable_cpus() -> int:
    """The number of processors that this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int | None:
    """Bytes of memory, swap space included, that this process may use; None if the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines)}
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None

    def least(of_machine: int, name: str | None, name_in_v1: str | None) -> int:
        limits = (limit for group in groups for limit in _limits(name, name_in_v1, *group.split(":", 2)))
        return min([of_machine, *limits])

    memory = least(kilobytes["MemTotal"] << 10, "memory.max", "memory.limit_in_bytes")
    swap = least(kilobytes["SwapTotal"] << 10, "memory.swap.max", None)
    return least(memory + swap, None, "memory.memsw.limit_in_bytes")


def _limits(
    name: str | None, name_in_v1: str | None, number: str, controllers: str, path: str
) -> Iterator[int]:
    """The limits in bytes of a control group and of those that it is in, whose memory is limited.

    Args:
        name, name_in_v1: of the file that holds a limit, in either version of control groups; None if there
            is none.
    """
    is_v1 = number != "0"
    root, file = Path("/sys/fs/cgroup/memory" if is_v1 else "/sys/fs/cgroup"), name_in_v1 if is_v1 else name
    if file is None or (is_v1 and "memory" not in controllers.split(",")):
        return
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):  # inside a container the group may have another path
            with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
                yield int((folder / file).read_text())


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Restores the global random states of Python, NumPy and torch, on the CPU and on GPUs."""
    # Preparing data does not load torch: until something does, it has no random state to keep.
    torch: Any = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with _torch_random_state_kept(torch) if torch else contextlib.nullcontext():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def _torch_random_state_kept(torch: Any) -> Iterator[None]:
    cpu_state, seed = torch.get_rng_state(), torch.initial_seed()
    # Reading the GPUs' states would start CUDA. Until it starts, they follow from torch's seed.
    gpu_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if gpu_states is None:
            torch.cuda.manual_seed_all(seed)
        else:
            torch.cuda.set_rng_state_all(gpu_states)


def check_threads(number: int) -> None:
    """Refuses more threads per worker than this machine has CPUs: torch crashes when it cannot start them."""
    cpus = os.cpu_count() or 1
    if number > cpus:
        raise AdarError(
            f"train.threads={number}: this machine has {counted(cpus, 'CPU')}; ask for no more threads"
        )


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Runs torch on this many CPU threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def environment_kept(**defaults: str) -> Iterator[None]:
    """Sets environment variables that are not set yet, and restores the environment."""
    before = dict(os.environ)
    os.environ.update(defaults | before)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def outliving_ray() -> Iterator[None]:
    """Processes that the block starts outlive a Ray session that is around it."""
    with environment_kept():
        for name in [name for name in os.environ if name.startswith(RAY_MARK)]:
            del os.environ[name]
        yield


@contextlib.contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restores the signal handlers, which only the main thread can change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that was not installed from Python and cannot be put back.
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_noticed(grace: float = GRACE_SECONDS) -> Iterator[Callable[[], bool]]:
    """Until the block ends, the first SIGTERM only makes the function that this yields return True.

    A second one, or the end of the grace period, does what SIGTERM did before. Within a second of the first
    it counts as the same: a group of processes gets the signal, and one of them passes it on to another.

    Only the main thread can do so; in any other the function returns False.

    Args:
        grace: seconds that the block has from the first signal on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    noticed: float | None = None
    timer = threading.Timer(grace, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal noticed
        if noticed is None:
            noticed = time.monotonic()
            timer.start()
        elif time.monotonic() - noticed >= min(_SAME_SIGNAL_SECONDS, grace):
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    with signal_handlers_kept():
        before = signal.signal(signal.SIGTERM, notice)
        try:
            yield lambda: noticed is not None
        finally:
            timer.cancel()


@contextlib.contextmanager
def log_levels_kept() -> Iterator[None]:
    """Restores the levels of all loggers that exist."""
    loggers = [logging.getLogger(), *_existing_loggers()]
    levels = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            if logger.level != level:
                logger.setLevel(level)


@contextlib.contextmanager
def loggers_quiet(*names: str) -> Iterator[None]:
    """Silences everything below ERROR in these loggers."""
    loggers = [logging.getLogger(name) for name in names]  # which makes them, so that their levels are kept
    with log_levels_kept():
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield


def _existing_loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logger for logger in known if isinstance(logger, logging.Logger)]
