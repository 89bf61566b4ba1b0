"""A cluster as seen from a laptop: jobs are submitted, followed and stopped through Ray's Jobs API.

A job has a name. Each time it is run is an attempt, which Ray knows as NAME, NAME.2, NAME.3 and so on, since
it takes no id twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from adar_ray.cluster.driver import INTERRUPTED, JOB, NAME, STOP_SECONDS
from adar_ray.cluster.job import Job, check_name
from adar_ray.cluster.ship import pack
from adar_ray.config import nearest
from adar_ray.errors import AdarError, one_line

ENTRY_POINT = "python -m adar_ray.cluster.driver"
HERE = "http://127.0.0.1:8265"
ANSWER_SECONDS = 10.0
START_SECONDS = 60.0  # from a head's first answer until it takes jobs
LOST_SECONDS = 60.0  # without an answer after which following gives up
_FINGERPRINT = "adar-ray-job"
_API_SERVER = "RAY_API_SERVER_ADDRESS"


@dataclass(frozen=True)
class Attempt:
    """One run of a job, as Ray knows it."""

    name: str
    number: int
    details: JobDetails

    @property
    def id(self) -> str:
        return self.details.submission_id

    @property
    def status(self) -> str:
        return self.details.status.value

    @property
    def has_ended(self) -> bool:
        return self.details.status.is_terminal()

    @property
    def exit_status(self) -> int:
        """The status that a shell would give: the job's own, 130 if it was stopped."""
        if self.details.status is JobStatus.SUCCEEDED:
            return 0
        if self.details.status is JobStatus.STOPPED:
            return INTERRUPTED
        code = self.details.driver_exit_code or 1
        return code if code > 0 else 128 - code

    def row(self) -> dict[str, Any]:
        message = (self.details.message or "").strip().splitlines()
        return {
            "job": self.name,
            "status": self.status,
            "attempts": self.number,
            "started": _time(self.details.start_time),
            "ended": _time(self.details.end_time),
            "exit status": self.exit_status if self.has_ended else None,
            "message": one_line(message[-1]) if message else None,
        }


class Cluster:
    """A Ray cluster that answers and has the same version of Ray as this machine."""

    def __init__(self, address: str | None = None) -> None:
        """Connects to the head's dashboard: at `address`, else as the environment says, else on this machine.

        Raises:
            AdarError: there is no head, or no certificate that is trusted; the token is missing or wrong; Ray
                has another version there.
        """
        self.address = _dashboard(address)
        verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
        if verify is not True and not Path(verify).exists():
            raise AdarError(f"{verify}: there are no certificates (REQUESTS_CA_BUNDLE, SSL_CERT_FILE)")
        with self._in_one_line():
            # Ray's own client would wait for minutes for a machine that is silent.
            answer = requests.get(f"{self.address}/api/version", timeout=ANSWER_SECONDS, verify=verify)
            if answer.status_code not in (200, 401, 403):
                raise AdarError(f"{self.address}: what answers is no Ray head (status {answer.status_code})")
            with _alone_in_environment(self.address):
                self._client = JobSubmissionClient(self.address, headers=_token(), verify=verify)
        theirs, ours = self._client._server_ray_version, ray.__version__
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise AdarError(
                f"{self.address}: runs Ray {theirs}, and here is Ray {ours}; "
                f"install ray=={theirs} here, or submit from the cluster's image"
            )

    def submit(self, job: Job, name: str) -> tuple[Attempt, bool]:
        """Submits a job under a name, and says whether it did.

        A job that waits, runs or has succeeded under this name is left as it is. One that has failed or was
        stopped is run again, and goes on where it was.

        Raises:
            AdarError: another job has the name.
        """
        attempts = self._attempts(check_name(name))
        if attempts and attempts[-1].status not in ("FAILED", "STOPPED"):
            return self._same(attempts[-1], job), False
        number = attempts[-1].number + 1 if attempts else 1
        with self._in_one_line(), _runtime_env(job, name) as runtime_env:
            try:
                self._submit(
                    entrypoint=ENTRY_POINT,
                    submission_id=name if number == 1 else f"{name}.{number}",
                    runtime_env=runtime_env,
                    metadata={_FINGERPRINT: job.fingerprint},
                    entrypoint_num_cpus=job.entry_point.cpus,
                    entrypoint_num_gpus=job.entry_point.gpus,
                    entrypoint_memory=int(job.entry_point.memory),
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return self._same(self.find(name), job), False  # somebody was faster
        return self.find(name), True

    def _submit(self, **what: Any) -> None:
        """Tries again while the head has only just started: it answers before it can take jobs."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._client.submit_job(**what)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def _same(self, attempt: Attempt, job: Job) -> Attempt:
        if (attempt.details.metadata or {}).get(_FINGERPRINT) != job.fingerprint:
            raise AdarError(
                f"{self.address}: another job has the name {attempt.name} ({attempt.status}); "
                "give this one another --name"
            )
        return attempt

    def find(self, name: str) -> Attempt:
        """The latest attempt at a job."""
        attempts = self._attempts(name)
        if not attempts:
            known = {attempt.name for attempt in self.list()}
            hint = nearest(name, known) if known else "; there are none"
            raise AdarError(f"{self.address}: there is no job {name!r}{hint}")
        return attempts[-1]

    def list(self) -> list[Attempt]:
        """The latest attempt at every job, the youngest first."""
        latest = {attempt.name: attempt for attempt in sorted(self._all(), key=lambda a: a.number)}
        return sorted(latest.values(), key=lambda attempt: -(attempt.details.start_time or 0))

    def _attempts(self, name: str) -> list[Attempt]:
        return sorted((a for a in self._all() if a.name == name), key=lambda attempt: attempt.number)

    def _all(self) -> list[Attempt]:
        with self._in_one_line():
            jobs = self._client.list_jobs()
        return [_attempt(details) for details in jobs if details.submission_id is not None]

    def log(self, attempt: Attempt) -> str:
        """What the attempt has written so far."""
        with self._in_one_line():
            return self._client.get_job_logs(attempt.id)

    def follow(self, attempt: Attempt, write: Callable[[str], None]) -> Attempt:
        """Writes the log as it grows until the attempt has ended; returns what came of it.

        A connection that breaks is made again.

        Raises:
            AdarError: the head has not answered for a minute, or was restarted and knows the job no more.
        """
        written, answered = 0, time.monotonic()

        async def tail() -> None:
            nonlocal written, answered
            place = 0
            async for text in self._client.tail_job_logs(attempt.id):
                write(text[max(0, written - place) :])
                place += len(text)
                written, answered = max(written, place), time.monotonic()

        with self._in_one_line():
            while True:
                with contextlib.suppress(*_LOST, RuntimeError):
                    asyncio.run(tail())
                try:
                    now = self._again(attempt)
                    if now.has_ended:
                        break
                    answered = time.monotonic()
                except (*_LOST, RuntimeError) as error:
                    if time.monotonic() - answered > LOST_SECONDS:
                        raise AdarError(
                            f"{self.address}: the head does not answer any more; "
                            f"once it does, go on with `adar-ray logs -f {attempt.name}`"
                        ) from error
                time.sleep(1)
        with contextlib.suppress(*_LOST, RuntimeError):  # what a broken connection has kept back
            write(self._client.get_job_logs(attempt.id)[written:])
        return now

    def _again(self, attempt: Attempt) -> Attempt:
        for details in self._client.list_jobs():
            if details.submission_id == attempt.id:
                return _attempt(details)
        raise AdarError(
            f"{self.address}: the head was restarted and knows {attempt.name} no more; "
            "submitted again under its name, it goes on"
        )

    def stop(self, attempt: Attempt) -> Attempt:
        """Stops the attempt and waits until it has ended; what has ended stays as it is."""
        with self._in_one_line():
            if not attempt.has_ended:
                self._client.stop_job(attempt.id)
            while not attempt.has_ended:
                time.sleep(0.5)
                attempt = self._again(attempt)
        return attempt

    @contextlib.contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """What goes wrong on the way to the head, with what to do."""
        try:
            yield
        except AuthenticationError as error:
            what = "wants a token" if "required" in str(error) else "does not take this token"
            raise AdarError(
                f"{self.address}: {what}; set RAY_AUTH_TOKEN to the cluster's, "
                "or RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from error
        except requests.exceptions.InvalidHeader as error:  # its message holds the token
            raise AdarError(
                "RAY_AUTH_TOKEN, or the file at RAY_AUTH_TOKEN_PATH, is no single line"
            ) from error
        except requests.exceptions.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise AdarError(f"{self.address}: speaks no TLS; give the address with http://") from error
            reason = re.search(r"certificate verify failed: ([\w' -]+)", str(error))
            raise AdarError(
                f"{self.address}: its certificate is not trusted "
                f"({reason[1].strip() if reason else one_line(error, 160)}); "
                "set REQUESTS_CA_BUNDLE to the file of the authority that signed it"
            ) from error
        except _LOST as error:
            raise AdarError(
                f"{self.address}: no Ray head answers there ({_reason(error)}); "
                "give --address http://HEAD:8265, and see that the cluster is up"
            ) from error
        except (ValueError, KeyError) as error:
            raise AdarError(
                f"{self.address}: what answers is no Ray head ({one_line(error, 160)})"
            ) from error
        except RuntimeError as error:
            raise AdarError(f"{self.address}: {one_line(error)}") from error


for _name in ("job.sdk", "dashboard_sdk"):  # which tell of every request and every connection
    logging.getLogger(f"ray.dashboard.modules.{_name}").setLevel(logging.ERROR)

_LOST = (requests.exceptions.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError)


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return f"nothing within {ANSWER_SECONDS:g} s"
    for sign, meaning in (("refused", "connection refused"), ("NameResolution", "no such host")):
        if sign in str(error):
            return meaning
    return one_line(error, 120)


def _dashboard(address: str | None) -> str:
    """The address of the head's dashboard, from the first that says one."""
    from_ray = os.environ.get("RAY_ADDRESS", "")
    found = address or os.environ.get(_API_SERVER) or (from_ray if from_ray.startswith("http") else HERE)
    if urlsplit(found).scheme not in ("http", "https") or not urlsplit(found).netloc:
        raise AdarError(f"--address {found}: give it as http://HEAD:8265 or https://HEAD")
    return found.rstrip("/")


@contextlib.contextmanager
def _alone_in_environment(address: str) -> Iterator[None]:
    """Ray's client takes the address in the environment before the one that it is given."""
    before = os.environ.get(_API_SERVER)
    os.environ[_API_SERVER] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_API_SERVER]
        else:
            os.environ[_API_SERVER] = before


def _token() -> dict[str, str]:
    """The header of the token that the environment names; Ray itself would want RAY_AUTH_MODE as well."""
    token, file = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AdarError(f"RAY_AUTH_TOKEN_PATH {file}: cannot be read ({one_line(error)})") from error
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


@contextlib.contextmanager
def _runtime_env(job: Job, name: str) -> Iterator[dict[str, Any]]:
    """Ray's runtime environment of a job, with an archive of what is shipped that is there for as long."""
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    variables |= job.environment | {JOB: job.to_json(), NAME: name}
    environment: dict[str, Any] = {"env_vars": variables}
    if job.image is not None:
        environment["image_uri"] = job.image
    with tempfile.TemporaryDirectory() as scratch:
        if job.ship is not None:
            archive = Path(scratch, "shipped.zip")
            pack(Path(job.ship), archive)
            environment["working_dir"] = str(archive)
        yield environment


def _attempt(details: JobDetails) -> Attempt:
    name, number = re.fullmatch(r"(.*?)(?:\.(\d+))?", details.submission_id, re.DOTALL).groups()
    return Attempt(name, int(number or 1), details)


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")
