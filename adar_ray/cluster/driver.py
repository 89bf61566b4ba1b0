"""The driver of a job, which runs on the cluster: it runs the steps one by one, each in its own process.

    python -m adar_ray.cluster.driver [JOB] [--name NAME] [--set KEY=VALUE]

`adar-ray job submit` passes job and name in the environment instead. `STORAGE/jobs/NAME.json` records how far
the job is, see `Progress`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import uuid
from itertools import takewhile
from pathlib import Path
from types import FrameType

import click
from pydantic import BaseModel, ConfigDict

from adar_ray.cluster.job import JOB, NAME, EntryPoint, Job, check_name, option
from adar_ray.errors import FAILED, INTERRUPTED, TERMINATED, WRONG_USAGE, AdarError
from adar_ray.lease import wait_until_free
from adar_ray.process import GRACE_SECONDS
from adar_ray.reporting.progress import read_training
from adar_ray.storage import Folder, describe_os_error

STEP = "adar_ray.cli.step"  # run as a module: the command line uses this package, not the reverse
RETRY_SECONDS = 10.0
POLL_SECONDS = 10.0
STOP_SECONDS = GRACE_SECONDS + 10  # for a step to save and clean up
_SAYS = "adar-ray job: "
_BEGUN = re.compile(rf"^{_SAYS}step (?P<place>\d+ of \d+): (?P<command>[a-z]+)", re.MULTILINE)
_UNRESERVED = EntryPoint(cpus=0)  # of a job that Ray's Jobs API did not start
_RESUMED_BY = {"train": "config.yaml", "tune": "search.yaml"}
"""The file that makes a command's --out resumable."""


class Progress(BaseModel):
    """`STORAGE/jobs/NAME.json`: how far a job is.

    Attributes:
        done: the command lines of the finished steps.
        begun: the command lines of the steps that began and are not finished, by the address of their --out,
            which was empty then.
        driver: id of the driver that runs the job; a driver that finds another id here ends.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    done: list[list[str]]
    begun: dict[str, list[str]]
    driver: str


class ProgressFile:
    """The file that records how far a job is, on its storage."""

    def __init__(self, job: Job, name: str) -> None:
        """Take over the job from any driver that runs it.

        Raises:
            AdarError: the file is damaged.
        """
        self._folder, self._file = Folder.at(job.storage).folder("jobs"), f"{name}.json"
        is_new = not self._folder.exists(self._file)
        before = Progress(done=[], begun={}, driver="") if is_new else self._read()
        self._driver = uuid.uuid4().hex
        self._write(before.model_copy(update={"driver": self._driver}))
        # If the job has changed, its steps count as done up to the first that differs. The others are kept
        # until another step is done in their place: the job may be submitted unchanged again.
        both = zip(before.done, job.commands(name), strict=False)
        self._done = [done for done, step in takewhile(lambda pair: pair[0] == pair[1], both)]

    def _read(self) -> Progress:
        remedy = "remove it to run the job from its first step"
        return self._folder.read_record(self._file, Progress, remedy)

    def _write(self, progress: Progress) -> None:
        self._progress = progress
        self._folder.write_record(self._file, progress)

    @property
    def is_ours(self) -> bool:
        """Whether this driver still runs the job."""
        return self._read().driver == self._driver

    def is_done(self, index: int) -> bool:
        """Whether a step, counted from 0, is done."""
        return index < len(self._done)

    def add_done(self, words: list[str]) -> None:
        self._done = [*self._done, words]
        self._write(Progress(done=self._done, begun=self._begun_without(words), driver=self._driver))

    def begin(self, words: list[str]) -> list[str]:
        """Record that a step begins; return the command line that runs or resumes it.

        If the step began before, and --out was empty then, the content of --out is the step's own: a run or a
        search resumes, anything else is replaced. The command itself refuses what others have put there.

        Raises:
            AdarError: the content of --out is that of another step, which the job had before it changed.
        """
        command, out = words[0], option(words, "--out")
        if out is None:
            return words
        folder = Folder.at(out)
        if folder.is_empty():
            begun = {**self._progress.begun, folder.address: words}
            self._write(self._progress.model_copy(update={"begun": begun}))
            return words
        begun_with = self._progress.begun.get(folder.address)
        if begun_with is None:  # the command refuses it
            return words
        if begun_with != words:
            raise AdarError(
                f"{folder}: the job has changed since this step began; submit it unchanged, or under another "
                "--name"
            )
        if command in _RESUMED_BY and folder.exists(_RESUMED_BY[command]):
            # The code that its folder names is what this job named.
            return [command, "--resume", folder.address, "--trust"]
        return [command, "--replace", *words[1:]]

    def add_failed(self, words: list[str]) -> None:
        """Forget that a step began if it has left nothing: what is at its --out later is not its own."""
        out = option(words, "--out")
        with contextlib.suppress(OSError, AdarError):  # the storage may be unreachable for a moment
            if out is not None and Folder.at(out).is_empty():
                self._write(self._progress.model_copy(update={"begun": self._begun_without(words)}))

    def _begun_without(self, words: list[str]) -> dict[str, list[str]]:
        return {out: begun for out, begun in self._progress.begun.items() if begun != words}


def run_job(job: Job, name: str) -> int:
    """Run the steps that are not done yet. One whose failure may pass by itself is tried again.

    Returns:
        The exit status of the step that failed, or 0.

    Raises:
        AdarError: the time limit has passed, or another driver has taken over the job.
        KeyboardInterrupt: the job was stopped.
    """
    deadline = None if job.time_limit is None else time.monotonic() + job.time_limit
    progress, steps = ProgressFile(job, name), job.commands(name)
    for number, words in enumerate(steps):
        step = f"step {number + 1} of {len(steps)}"
        if progress.is_done(number):
            _say(f"{step} is already done: {shlex.join(words)}")
            continue
        out = option(words, "--out")
        for tries_left in reversed(range(job.retries + 1)):
            if out is not None:  # the step of a driver that this one replaces takes a moment to end
                wait_until_free(Folder.at(out))
            running = progress.begin(words)
            _say(f"{step}: {shlex.join(running)}")
            status = _run_step(running, job, progress, deadline)
            if status:
                progress.add_failed(words)
            if status in (INTERRUPTED, TERMINATED):  # the step may get the signal before the driver
                raise KeyboardInterrupt
            if status in (0, FAILED, WRONG_USAGE) or not tries_left:  # the user has to change something
                break
            _say(f"{step} failed with status {status}; retrying in {RETRY_SECONDS:g} s, {tries_left} left")
            time.sleep(RETRY_SECONDS)
        if status:
            _say(f"{step} failed with status {status}; submit {name} again to continue from there")
            return status
        progress.add_done(words)
    _say(f"{name} is done")
    return 0


def _run_step(words: list[str], job: Job, progress: ProgressFile, deadline: float | None) -> int:
    # Ray counts the CPUs of the entry point, but no worker can have them.
    more = {"PYTHONUNBUFFERED": "1", "ADAR_RAY_ENTRY_POINT_CPUS": str(job.entry_point.cpus)}
    command = [sys.executable, "-m", STEP, *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | more)
    try:
        while process.poll() is None:
            left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise AdarError(
                    f"the time limit of {job.time_limit:g} s has passed; submit the job again to continue"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left, POLL_SECONDS))
                break
            with contextlib.suppress(OSError):  # the storage may be unreachable for a moment
                if not progress.is_ours:
                    raise AdarError("another driver has taken over the job; this one ends")
    except (AdarError, KeyboardInterrupt):  # the signal that stops the job may have reached the step already
        process.terminate()
        raise
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS - 5)
        process.kill()
        process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _say(text: str) -> None:
    click.echo(f"{_SAYS}{text}", err=True)


def read_progress(log: str) -> dict[str, str]:
    """How far a job is by its log: `step`, such as "2 of 3: train", and what `read_training` finds of the
    last `train`. What the log does not tell is left out."""
    begun = list(_BEGUN.finditer(log))
    if not begun:
        return {}
    trainings = [one for one in begun if one["command"] == "train"]
    training = read_training(log[trainings[-1].end() :]) if trainings else {}
    return {"step": f"{begun[-1]['place']}: {begun[-1]['command']}"} | training


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.argument("file", metavar="JOB", required=False)
@click.option("--name", help="Name of the job. Default: the name of the file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As for `adar-ray job submit`.")
def main(file: str | None, name: str | None, settings: tuple[str, ...]) -> None:
    """Run the steps of a job here, or resume it."""
    # SIGINT, too: a shell makes what it starts in the background ignore it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if file is not None:
            name = check_name(name or Path(file).stem)
            job = Job.load(file, settings).model_copy(update={"entry_point": _UNRESERVED})
        elif JOB in os.environ and NAME in os.environ:
            name = check_name(os.environ[NAME])
            job = Job.from_json(os.environ[JOB])
        else:
            raise click.UsageError("give a job, as a file or in the environment")
        sys.exit(run_job(job, name))
    except KeyboardInterrupt:
        _say(f"stopped; submit {name} again to continue")
        sys.exit(INTERRUPTED)
    except AdarError as error:
        _say(str(error))
        sys.exit(FAILED)
    except OSError as error:
        _say(describe_os_error(error))
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
