"""Commands in processes of their own, and the processes that they leave."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adar_ray.cli.main import main

MARK = "ADAR_RAY_CHAOS"  # names the command that a process belongs to, in its environment
_POLL_SECONDS = 0.01

# What commands import is imported once: each is a fork of a process that has done so.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "__main__",
        __name__,
        "adar_ray.data.prepare",
        "adar_ray.inference.evaluate",
        "adar_ray.inference.recommend",
        "adar_ray.training.trainer",
    ]
)


class Command:
    """`adar-ray WORDS`, running.

    Args:
        log: its output is in `LOG.out`, its messages in `LOG.err`.
        mark: the value of `MARK` that it and what it starts have.
        prefix: of the command line, such as `ip netns exec NAME`. None forks it, which takes no time, from a
            process that knows nothing of Ray.
    """

    def __init__(
        self,
        words: Sequence[object],
        log: Path,
        mark: str,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] | None = None,
    ) -> None:
        self.words = [str(word) for word in words]
        self.mark, self.began = mark, time.monotonic()
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        environment = {**(environment or {}), MARK: mark}
        arguments = self.words, self._out, self._err, environment, prefix
        self._process = _CONTEXT.Process(target=_become, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status as a shell would see it; None while it runs."""
        code = self._process.exitcode
        return code if code is None or code >= 0 else 128 - code

    @property
    def messages(self) -> list[str]:
        """What it has said on standard error so far, by line."""
        with contextlib.suppress(FileNotFoundError):
            return self._err.read_text(encoding="utf-8", errors="replace").splitlines()
        return []

    @property
    def output(self) -> bytes:
        return self._out.read_bytes()

    @property
    def is_ready(self) -> bool:
        """Whether it handles signals already."""
        with contextlib.suppress(OSError):
            found = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
            return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def wait(self, seconds: float) -> int | None:
        """Waits for its end, at most so long; returns its status."""
        self._process.join(seconds)
        return self.status

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Sends it a signal, or as a terminal does its whole group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def end(self) -> None:
        """Kills it and all that it has started."""
        kill_marked(self.mark)
        self._process.kill()
        self._process.join()


def _become(
    words: list[str], out: Path, err: Path, environment: dict[str, str], prefix: Sequence[str] | None
) -> None:
    os.setsid()
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
    os.environ.update(environment)
    # Workers are many here, and cores few.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = [*(prefix or ()), sys.executable, "-m", "adar_ray.cli.main", *words]
    if prefix is not None:
        os.execvp(command[0], command)
    sys.argv = ["adar-ray", *words]
    main()


@dataclass(frozen=True)
class Seen:
    """A process."""

    pid: int
    title: str

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def marked(mark: str, title: str = "") -> list[Seen]:
    """Living processes that a command with this mark has started, whose titles match a pattern."""
    wanted = f"{MARK}={mark}\0".encode()
    return [seen for seen in _processes(wanted) if re.search(title, seen.title)]


def _processes(wanted: bytes) -> Iterator[Seen]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it may end meanwhile
            if wanted in (folder / "environ").read_bytes() + b"\0":
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield Seen(int(folder.name), title.strip())


def kill_marked(mark: str) -> None:
    """Kills what a command with this mark has started, and what that starts meanwhile."""
    while found := marked(mark):
        for seen in found:
            seen.send(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def wait_until(condition: Callable[[], object], seconds: float, pause: float = _POLL_SECONDS) -> bool:
    """Waits until a condition holds, at most so long; returns whether it does.

    Args:
        pause: seconds after which it looks again.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
