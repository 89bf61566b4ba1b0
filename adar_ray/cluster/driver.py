"""What runs in the cluster: the steps of a job, one after the other, each in a process of its own.

    python -m adar_ray.cluster.driver [JOB] [--name NAME] [--set KEY=VALUE]

`adar-ray submit` gives job and name in the environment instead. `STORAGE/jobs/NAME.json` says how far it is:

    done     the steps that are finished, as words
    begun    the step that was begun last, and whether its --out was empty then
    driver   who runs the job; an older driver that finds another here ends
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from itertools import takewhile
from pathlib import Path

import click

from adar_ray.cluster.job import Job, check_name, option
from adar_ray.errors import AdarError
from adar_ray.storage import Folder, describe_os_error

JOB, NAME = "ADAR_RAY_JOB", "ADAR_RAY_JOB_NAME"
INTERRUPTED = 130
WRONG_USAGE = 2
RETRY_SECONDS = 10.0
LOOK_SECONDS = 10.0
STOP_SECONDS = 30  # that a step has to tidy up
_GOES_ON = {"train": "config.yaml", "tune": "search.yaml"}


class Record:
    """How far a job has come, on its storage."""

    def __init__(self, job: Job, name: str) -> None:
        """Takes the job over from whoever runs it."""
        self._folder, self._file = Folder.at(job.storage).folder("jobs"), f"{name}.json"
        there = self._folder.exists(self._file)
        self._content = self._folder.read_json(self._file) if there else {"done": [], "begun": None}
        self._content["driver"] = self._driver = uuid.uuid4().hex
        # Of a job that was changed, what is done counts up to the first step that is another.
        both = zip(self._content["done"], job.commands(name), strict=False)
        self._content["done"] = [done for done, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
        self._write()

    def _write(self) -> None:
        self._folder.write_json(self._file, self._content)

    @property
    def is_ours(self) -> bool:
        return self._folder.read_json(self._file)["driver"] == self._driver

    def is_done(self, number: int) -> bool:
        """Whether the step of this number is, from 0 on."""
        return number < len(self._content["done"])

    def add(self, words: list[str]) -> None:
        self._content["done"].append(words)
        self._write()

    def begin(self, words: list[str]) -> list[str]:
        """The words that run the step, or go on with it where it was begun before.

        What lies at the --out of a step that was begun while nothing lay there is the step's own: a run or a
        search goes on, all else is made again.
        """
        command, out = words[0], option(words, "--out")
        folder = None if out is None else Folder.at(out)
        begun = self._content["begun"]
        if folder is None or begun != {"words": words, "was_empty": True}:
            was_empty = folder is None or folder.is_empty()
            self._content["begun"] = {"words": words, "was_empty": was_empty}
            self._write()
            return words
        if command in _GOES_ON and folder.exists(_GOES_ON[command]):
            return [command, "--resume", folder.address]
        folder.remove()
        return words


def run_job(job: Job, name: str) -> int:
    """Runs the steps that are not done yet; returns the exit status of the one that failed, or 0.

    Raises:
        AdarError: the time limit is over, or another driver has taken the job over.
        KeyboardInterrupt: the job is stopped.
    """
    deadline = None if job.time_limit is None else time.monotonic() + job.time_limit
    record, steps = Record(job, name), job.commands(name)
    for number, words in enumerate(steps):
        step = f"step {number + 1} of {len(steps)}"
        if record.is_done(number):
            _say(f"{step} is done: {shlex.join(words)}")
            continue
        for tries_left in reversed(range(job.retries + 1)):
            running = record.begin(words)
            _say(f"{step}: {shlex.join(running)}")
            status = _run_step(running, job, record, deadline)
            if status == INTERRUPTED:  # whoever stops a job may tell its step first
                raise KeyboardInterrupt
            if status in (0, WRONG_USAGE) or not tries_left:
                break
            _say(f"{step} failed with status {status}; again in {RETRY_SECONDS:g} s, {tries_left} tries left")
            time.sleep(RETRY_SECONDS)
        if status:
            _say(f"{step} failed with status {status}; submitted again, {name} goes on there")
            return status
        record.add(words)
    _say(f"{name} is done")
    return 0


def _run_step(words: list[str], job: Job, record: Record, deadline: float | None) -> int:
    # What the entry point holds nobody else can have, though Ray counts it among the cluster's.
    more = {"PYTHONUNBUFFERED": "1", "ADAR_RAY_ENTRY_POINT_CPUS": str(job.entry_point.cpus)}
    command = [sys.executable, "-m", "adar_ray.cluster.step", *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | more)
    try:
        while process.poll() is None:
            left = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise AdarError(
                    f"the time limit of {job.time_limit:g} s is over; submitted again, the job goes on"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left, LOOK_SECONDS))
                break
            with contextlib.suppress(OSError):  # storage that is away for a moment
                if not record.is_ours:
                    raise AdarError("another driver has taken the job over; this one ends")
    except AdarError:
        process.terminate()
        raise
    finally:  # whoever stops a job tells its steps as well
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS - 5)
        process.kill()
        process.wait()
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _say(text: str) -> None:
    click.echo(f"adar-ray job: {text}", err=True)


@click.command()
@click.argument("file", metavar="JOB", required=False)
@click.option("--name", help="Name of the job; default: that of the file.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As for `adar-ray submit`.")
def main(file: str | None, name: str | None, settings: tuple[str, ...]) -> None:
    """Run the steps of a job here, from where they stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        if file is not None:
            job, name = Job.load(file, settings), check_name(name or Path(file).stem)
        elif JOB in os.environ and NAME in os.environ:
            job, name = Job.from_json(os.environ[JOB]), check_name(os.environ[NAME])
        else:
            raise click.UsageError("give a job, as a file or in the environment")
        sys.exit(run_job(job, name))
    except KeyboardInterrupt:
        _say(f"stopped; submitted again, {name} goes on")
        sys.exit(INTERRUPTED)
    except AdarError as error:
        _say(str(error))
        sys.exit(1)
    except OSError as error:
        _say(describe_os_error(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
