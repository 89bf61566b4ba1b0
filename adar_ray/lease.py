"""One writer a folder: a file that says which process writes a run or a search, and that it still lives.

No file system in common offers more than reading and replacing a whole file, so a lease is taken by writing
one's id and reading back whose id is there. Writers that start at the same moment may both believe that they
have it; so whoever holds it looks again before each write, and stops if it finds another id.

Clocks of machines differ. A holder on another machine counts as dead once this process has seen its file
unchanged for `EXPIRY_SECONDS`. On the same machine its process id tells at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from adar_ray.errors import AdarError
from adar_ray.storage import Folder

logger = logging.getLogger(__name__)

LEASE = "lease.json"
BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
_POLL_SECONDS = 1.0
_SETTLE_SECONDS = 0.05  # for a process that has seen no lease to write its own
_SETTLE_REMOTE_SECONDS = 1.0
_STOP_SECONDS = 5.0
_DYING_SECONDS = 1.0  # that a process which has just been killed takes to end


class Holder(BaseModel):
    """`lease.json`: the process that writes a folder.

    Attributes:
        id: of the lease.
        machine: what tells machines and containers apart, or restarts of one; None where nothing does.
        started: when the process started, in the machine's own ticks; tells processes of one id apart.
        since: when it took the lease, by its own clock.
        beat: how often it has said that it lives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    host: str
    pid: int
    machine: str | None
    started: int | None
    since: str
    beat: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether its process id means something to this process."""
        return self.machine is not None and self.machine == _machine()

    @property
    def is_dead(self) -> bool:
        """Whether it certainly is; another machine's processes cannot be looked up."""
        return self.is_here and not _is_running(self.pid, self.started)


@dataclass(frozen=True)
class Lease:
    """The right to write a folder, for the process that took it and for those that it passes this to."""

    folder: Folder
    id: str

    def check(self) -> None:
        """Raise AdarError if another process has taken over."""
        now = read_holder(self.folder)
        if now is None or now.id != self.id:
            whose = f"{now} has taken it over" if now else f"its {LEASE} is gone"
            raise AdarError(f"{self.folder}: {whose}; this process stops and writes nothing more")


@contextlib.contextmanager
def hold(folder: Folder) -> Iterator[Lease]:
    """Hold the lease of a folder, which need not exist yet.

    Files that holders which were killed had begun to write are removed.

    Raises:
        AdarError: another process holds it.
    """
    _refuse_unless_free(folder)
    was_there = folder.exists()
    me = _this_process()
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder, me, stop), daemon=True)
    try:
        _write(folder, me)
        time.sleep(_SETTLE_SECONDS if folder.is_local else _SETTLE_REMOTE_SECONDS)
        now = read_holder(folder)
        if now is not None and now.id != me.id:
            raise _held(folder, now)
        folder.remove_partial(but=LEASE)
        thread.start()
        yield Lease(folder, me.id)
    finally:
        stop.set()
        if thread.is_alive():
            thread.join(_STOP_SECONDS)
        with contextlib.suppress(OSError, AdarError):
            _release(folder, me, was_there)


def sign(folder: Folder) -> None:
    """Write that this process fills a folder, in which nobody else writes; `read_holder` reads it."""
    _write(folder, _this_process())


def read_holder(folder: Folder) -> Holder | None:
    """The process that a folder's lease names; it may be dead.

    Raises:
        AdarError: the file is damaged.
    """
    try:
        return folder.read_record(LEASE, Holder, "remove it if no process writes this folder")
    except AdarError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def wait_until_free(folder: Folder) -> None:
    """Wait up to `EXPIRY_SECONDS` for the holder of a folder's lease to release it or to die."""
    holder = read_holder(folder)
    if holder is None or holder.is_dead:
        return
    logger.warning("%s: in use by %s; waiting up to %g s for its end", folder, holder, EXPIRY_SECONDS)
    deadline = time.monotonic() + EXPIRY_SECONDS
    while holder is not None and not holder.is_dead and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        holder = read_holder(folder)


def _refuse_unless_free(folder: Folder) -> None:
    holder = read_holder(folder)
    if holder is None or holder.is_dead:
        return
    if holder.is_here:
        time.sleep(_DYING_SECONDS)
        if holder.is_dead:
            return
        raise _held(folder, holder)
    logger.warning(
        "%s: %s held it last; waiting up to %g s for a sign that it lives", folder, holder, EXPIRY_SECONDS
    )
    deadline = time.monotonic() + EXPIRY_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        now = read_holder(folder)
        if now is None:
            return
        if now != holder:
            raise _held(folder, now)


def _this_process() -> Holder:
    return Holder(
        id=uuid.uuid4().hex,
        host=platform.node(),
        pid=os.getpid(),
        machine=_machine(),
        started=_started(os.getpid()),
        since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _held(folder: Folder, holder: Holder) -> AdarError:
    if holder.is_here and holder.pid == os.getpid():
        return AdarError(f"{folder}: in use by {holder}, which is this process; wait until it is done there")
    return AdarError(f"{folder}: in use by {holder}; wait for its end, or end it there (kill {holder.pid})")


def _write(folder: Folder, holder: Holder) -> None:
    folder.write_record(LEASE, holder)


def _beat(folder: Folder, holder: Holder, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        # The storage may be unreachable for a moment, for which each client has exceptions of its own.
        with contextlib.suppress(Exception):
            now = read_holder(folder)
            if now is None or now.id != holder.id:
                return  # lost; whoever writes next finds out
            holder = holder.model_copy(update={"beat": holder.beat + 1})
            _write(folder, holder)


def _release(folder: Folder, holder: Holder, was_there: bool) -> None:
    now = read_holder(folder)
    if now is None or now.id != holder.id:
        return
    folder.delete(LEASE)
    if not was_there and folder.is_empty():
        folder.remove()


def _machine() -> str | None:
    """The host, its start and its namespace of process ids; None where they cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if it cannot be told."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _is_running(pid: int, started: int | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    fields = _stat(pid)
    if fields is None:
        return True
    return fields[0] not in "ZX" and int(fields[19]) == started


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
