"""What `adar-ray doctor` looks at. Each check says by itself how one thing is, and what to do about it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, ParamSpec

from adar_ray.cli.command import describe
from adar_ray.errors import LONGEST_MESSAGE, AdarError, one_line

Status = Literal["ok", "warning", "failed"]
P = ParamSpec("P")

ALMOST_FULL = 0.1  # of a disk that is free; a cluster's alert has the same bound
LEAST_DISK = 100 << 20
LEAST_MEMORY = 2 << 30  # of Ray's own processes, the command's and a worker's
LONGEST_SOCKET = 107  # bytes that Linux takes for a socket's path
# The longest path that Ray makes, as if this process started it.
_SOCKET = f"session_2026-01-31_12-00-00_000000_{os.getpid()}/sockets/plasma_store"
_NAMED = ("ray", "torch", "pyarrow")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        status: only what cannot work has failed.
        message: one line that says what is there, and what to do if that is not as it should be.
    """

    check: str
    status: Status
    message: str


def check(function: Callable[P, tuple[Status, str]]) -> Callable[P, Finding]:
    """Make a check of a function that returns a status and a message. An error is a failure."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Finding:
        try:
            status, message = function(*args, **kwargs)
        except Exception as error:  # what is broken may fail in any way
            status, message = "failed", describe(error)
        return Finding(function.__name__.replace("_", " "), status, one_line(message, LONGEST_MESSAGE))

    return run


def diagnose(address: str | None, storage_address: str | None) -> Iterator[Finding]:
    """Check everything.

    Args:
        address: the dashboard of a cluster; by default the one that the environment names, if it does.
        storage_address: where runs are to be written.
    """
    yield python()
    yield packages()
    yield kernels()
    yield cores()
    yield memory()
    yield shared_memory()
    yield gpu()
    yield disk(storage_address)
    yield temporary_folder()
    yield storage(storage_address)
    yield dashboard(address)
    yield ray()


@check
def python() -> tuple[Status, str]:
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    needed, found = metadata("adar-ray")["Requires-Python"], platform.python_version()
    if not SpecifierSet(needed).contains(found, prereleases=True):
        return "failed", f"{found}, but adar-ray needs {needed}; install it with another Python"
    return "ok", found


@check
def packages(requirements: Sequence[str] | None = None) -> tuple[Status, str]:
    """The packages that adar-ray requires without its extras, or those of `requirements`."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    installed, wrong, remedy = {}, [], []
    for text in requires("adar-ray") or [] if requirements is None else requirements:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = installed[needed.name] = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is not installed")
        else:
            if needed.specifier.contains(found, prereleases=True):
                continue
            wrong.append(f"{needed.name} is {found}, but adar-ray needs {needed.specifier}")
        remedy.append(f"'{needed}'")
    if wrong:
        return "failed", f"{', '.join(wrong)}; run pip install {' '.join(remedy)}"
    named = [f"{name} {installed[name]}" for name in _NAMED if name in installed]
    return "ok", ", ".join([f"adar-ray {version('adar-ray')}", *named, f"{len(installed)} required in all"])


@check
def kernels() -> tuple[Status, str]:
    """The compiled loops, on two users of three items: the first knows items 0 and 2, the second item 1."""
    import numpy as np

    from adar_ray.kernels import contains

    found = np.zeros((2, 2), bool)
    start, pair, no_bits = np.array([0, 2, 3]), np.array([0, 2, 4]), np.empty(0, np.uint8)
    contains(start, pair, no_bits, 3, np.array([0, 1]), np.array([[0, 1], [1, 2]]), found)
    if found.tolist() != [[True, False], [True, False]]:
        return "failed", "compiled loops give wrong results; install Numba again"
    if not hasattr(contains, "stats"):
        return "warning", "Numba is told not to compile, so training is slow; unset NUMBA_DISABLE_JIT"
    if contains.stats.cache_path is None:
        return "warning", (
            "each process compiles them again, which takes a while; "
            "set NUMBA_CACHE_DIR to a folder that can be written"
        )
    return "ok", f"compiled by Numba, kept in {contains.stats.cache_path}"


@check
def cores() -> tuple[Status, str]:
    from adar_ray.process import usable_cpus

    return "ok", f"{usable_cpus()} that this process may use, {os.cpu_count()} in all"


@check
def memory() -> tuple[Status, str]:
    from adar_ray.process import usable_memory

    available = usable_memory()
    if available is None:
        return "ok", "the system does not tell how much"
    if available < LEAST_MEMORY:
        return "warning", (
            f"{_size(available)} that this process may use is not much for Ray and a worker; "
            "train with --workers 0, or raise the limit"
        )
    return "ok", f"{_size(available)} that this process may use, swap space included"


@check
def shared_memory(folder: str = "/dev/shm") -> tuple[Status, str]:
    """Where Ray keeps its objects, if it has room for as many as Ray takes by itself."""
    from ray._private.ray_constants import (
        DEFAULT_OBJECT_STORE_MEMORY_PROPORTION,
        REQUIRE_SHM_SIZE_THRESHOLD,
    )

    from adar_ray.process import usable_memory

    if not Path(folder).is_dir():
        return "ok", f"there is no {folder}; Ray keeps its objects in its temporary folder"
    free = shutil.disk_usage(folder).free
    wanted = int((usable_memory() or 0) * DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
    if free < min(wanted, REQUIRE_SHM_SIZE_THRESHOLD):
        return "warning", (
            f"{folder} has {_size(free)} free, and Ray may want {_size(wanted)}; otherwise it keeps its "
            "objects on disk, which is slow: give the container more (docker run --shm-size)"
        )
    return "ok", f"{_size(free)} free in {folder}"


@check
def gpu() -> tuple[Status, str]:
    import torch

    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        names = Counter(torch.cuda.get_device_name(device) for device in devices)
        return "ok", ", ".join(f"{count} × {name}" for name, count in names.items())
    if Path("/proc/driver/nvidia/gpus").exists():
        return "warning", (
            f"this machine has an NVIDIA GPU that torch {torch.__version__} cannot use; "
            "install a build of torch for CUDA, and a driver that is as new"
        )
    return "ok", "none; training runs on CPUs"


@check
def disk(storage_address: str | None) -> tuple[Status, str]:
    """Where runs are written: the storage, or the working directory if none is named."""
    from adar_ray.storage import Folder

    folder = Folder.at(storage_address or ".")
    if not folder.is_local:
        return "ok", f"runs are written to {folder}, not to this machine"
    return _room(Path(folder.path), "free some space, or write runs to another disk")


@check
def temporary_folder() -> tuple[Status, str]:
    """Where Ray logs, spills objects and has its sockets."""
    from ray._common.utils import get_default_ray_temp_dir

    folder = Path(get_default_ray_temp_dir())
    if len(os.fsencode(folder / _SOCKET)) > LONGEST_SOCKET:
        return "failed", f"{folder} is too long a path for Ray's sockets; set RAY_TMPDIR to a shorter one"
    if not os.access(_there(folder), os.W_OK | os.X_OK):
        return "failed", f"{folder}: no permission to write there; set RAY_TMPDIR to another folder"
    return _room(folder, "remove old sessions in it, or set RAY_TMPDIR to a folder on another disk")


@check
def storage(address: str | None) -> tuple[Status, str]:
    """Write a file, read it and remove it, and the folders that this took.

    On an object store, empty objects that mark folders stay, as Arrow makes some whenever it removes one.
    """
    from adar_ray.outputs import missing_folders
    from adar_ray.storage import Folder, describe_os_error
    from adar_ray.waiting import waiting

    if address is None:
        return "ok", "no storage is named; --storage checks one"
    folder = Folder.at(address)
    name, content = f".{uuid.uuid4().hex[:8]}.partial", os.urandom(1 << 10)
    try:
        with waiting(f"{folder} to be written and read"):
            missing = missing_folders(folder)
            try:
                folder.write_bytes(name, content)
                try:
                    is_same = folder.read_bytes(name) == content
                finally:
                    folder.delete(name)
            finally:
                for made in missing:
                    with contextlib.suppress(OSError):  # others may have written there
                        made.rmdir()
    except OSError as error:
        remedy = "" if folder.is_local else "; check the address, its credentials and the network"
        raise AdarError(f"{folder}: {describe_os_error(error)}{remedy}") from error
    if not is_same:
        return "failed", f"{folder}: what is read is not what was written; choose another storage"
    return "ok", f"{folder} can be written, read and cleaned up"


@check
def dashboard(address: str | None) -> tuple[Status, str]:
    """The head that `adar-ray job` would submit to."""
    from adar_ray.ray_address import dashboard_address

    named = address or dashboard_address()
    if named is None:
        return "ok", "no cluster is named; --address or RAY_API_SERVER_ADDRESS names one for jobs"
    from adar_ray.cluster.client import Cluster

    cluster = Cluster(named)
    if cluster.is_open:
        return "warning", (
            f"{cluster.address} takes jobs without a token, so whoever reaches it can run anything; "
            "start the cluster with a token"
        )
    return "ok", f"{cluster.address} takes jobs with this token"


@check
def ray() -> tuple[Status, str]:
    """The cluster that commands would join."""
    from adar_ray.ray_address import ray_address

    address = ray_address()
    if address is None:
        return "ok", "RAY_ADDRESS is not set; commands start Ray on this machine when they need it"
    if address.startswith("http"):
        return "ok", "RAY_ADDRESS is a dashboard, for `adar-ray job`; other commands would need HOST:PORT"
    from adar_ray.ray_session import check_answers

    check_answers(address)
    return "ok", f"RAY_ADDRESS {address} answers"


def _room(folder: Path, remedy: str) -> tuple[Status, str]:
    """Whether the disk of a folder has room."""
    usage = shutil.disk_usage(_there(folder))
    found = f"{_size(usage.free)} of {_size(usage.total)} free for {folder}"
    if usage.free < LEAST_DISK:
        return "failed", f"{found}; {remedy}"
    return ("warning", f"{found}; {remedy}") if usage.free < ALMOST_FULL * usage.total else ("ok", found)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it if it is yet to come."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
