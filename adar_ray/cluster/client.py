"""A client of a Ray cluster: submits, follows and stops jobs through Ray's Jobs API.

A job has a name. Each time it runs is an attempt. Ray accepts no id twice, so it knows the attempts as NAME,
NAME.2, NAME.3 and so on.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from pydantic import BaseModel, ConfigDict, Field
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from adar_ray.cluster.driver import STOP_SECONDS, read_progress
from adar_ray.cluster.job import JOB, NAME, Job, check_name
from adar_ray.cluster.ship import pack
from adar_ray.config import nearest
from adar_ray.errors import FAILED, INTERRUPTED, AdarError, one_line, without_secrets
from adar_ray.process import environment_kept, loggers_quiet
from adar_ray.ray_address import API_SERVER, dashboard_address
from adar_ray.waiting import waiting

logger = logging.getLogger(__name__)

ENTRY_POINT = "python -m adar_ray.cluster.driver"
LOCAL = "http://127.0.0.1:8265"
ANSWER_SECONDS = 10.0
START_SECONDS = 60.0  # from a head's first answer until it accepts jobs
PENDING_SECONDS = 5.0  # for a job that is stopped while it starts
LOST_SECONDS = 60.0  # for any later answer; following tries again that long
# Keys of the metadata that Ray keeps of a job.
_FINGERPRINT = "adar-ray-job"
_OWNER = "owner"
_LABEL = "label."  # and the name of the label
_GIVEN_UP = "until the head gives up on it (after 15 minutes, or its RAY_JOB_START_TIMEOUT_SECONDS)"
_LOST = (requests.exceptions.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError)
_NOISY_LOGGERS = (  # a line for every request and connection
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
)


class JobSummary(BaseModel):
    """A job as `adar-ray job status` shows it."""

    model_config = ConfigDict(frozen=True)

    job: str
    status: str
    attempts: int
    started: str | None
    ended: str | None
    exit_status: int | None = Field(serialization_alias="exit status")
    message: str | None
    owner: str | None
    labels: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The summary as a row of a table, or for JSON."""
        return self.model_dump(by_alias=True)


@dataclass(frozen=True)
class Attempt:
    """One run of a job.

    Attributes:
        name: of the job.
        number: 1 for the first run of the job.
        id: Ray's submission id.
        details: what Ray knows.
    """

    name: str
    number: int
    id: str
    details: JobDetails

    @property
    def status(self) -> str:
        return self.details.status.value

    @property
    def has_ended(self) -> bool:
        return self.details.status.is_terminal()

    @property
    def owner(self) -> str | None:
        return (self.details.metadata or {}).get(_OWNER)

    @property
    def labels(self) -> dict[str, str]:
        metadata = self.details.metadata or {}
        return {key[len(_LABEL) :]: value for key, value in metadata.items() if key.startswith(_LABEL)}

    @property
    def exit_status(self) -> int:
        """The exit status that a shell would see: the job's own, or 130 if it was stopped."""
        if self.details.status is JobStatus.SUCCEEDED:
            return 0
        if self.details.status is JobStatus.STOPPED:
            return INTERRUPTED
        code = self.details.driver_exit_code or FAILED
        return code if code > 0 else 128 - code

    def summary(self) -> JobSummary:
        message = (self.details.message or "").strip().splitlines()
        return JobSummary(
            job=self.name,
            status=self.status,
            attempts=self.number,
            started=_time(self.details.start_time),
            ended=_time(self.details.end_time),
            exit_status=self.exit_status if self.has_ended else None,
            message=one_line(message[-1]) if message else None,
            owner=self.owner,
            labels=self.labels,
        )


class Cluster:
    """A Ray cluster that answers and runs the same version of Ray as this machine.

    Attributes:
        address: of its dashboard.
        is_open: whether it answers without a token.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to the dashboard of a head: `address`, else the environment's, else this machine's.

        Raises:
            AdarError: no head answers, its certificate is not trusted, the token is missing or wrong, or the
                cluster runs another version of Ray.
        """
        self.address = _dashboard(address)
        certificates = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
        if certificates and not Path(certificates).exists():
            raise AdarError(
                f"{certificates}: there is no such file; correct REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
            )
        verify = certificates or True
        with self._connection():
            # Ray's own client waits for minutes if a machine does not answer.
            answer = requests.get(f"{self.address}/api/version", timeout=ANSWER_SECONDS, verify=verify)
            if answer.status_code not in (200, 401, 403):
                raise AdarError(
                    f"{self.address}: is not a Ray head (it answers with status {answer.status_code})"
                )
            self.is_open = answer.status_code == 200
            with environment_kept():
                os.environ[API_SERVER] = self.address  # which Ray's client prefers to its argument
                self._client = _Client(self.address, headers=_token(), verify=verify)
        theirs, ours = self._client._server_ray_version or "", ray.__version__
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            raise AdarError(
                f"{self.address}: runs Ray {theirs}, but this machine has Ray {ours}; "
                f"install ray=={theirs} here, or submit from the cluster's image"
            )

    def submit(self, job: Job, name: str) -> tuple[Attempt, bool]:
        """Submit a job under a name.

        A job that is waiting, running or has succeeded under this name stays as it is. A job that failed or
        was stopped runs again and resumes where it was, even if it has changed: its driver refuses a changed
        step where it would lose what the step has made.

        Returns:
            The latest attempt, and whether this call submitted it.

        Raises:
            AdarError: another job is waiting, running or has succeeded under the name.
        """
        attempts = self._attempts(check_name(name))
        if attempts and attempts[-1].status not in ("FAILED", "STOPPED"):
            return self._same(attempts[-1], job), False
        number = attempts[-1].number + 1 if attempts else 1
        with _runtime_env(job, name) as runtime_env, self._connection():
            try:
                self._submit(
                    entrypoint=ENTRY_POINT,
                    submission_id=name if number == 1 else f"{name}.{number}",
                    runtime_env=runtime_env,
                    metadata={_FINGERPRINT: job.fingerprint, **_who_and_what(job)},
                    entrypoint_num_cpus=job.entry_point.cpus,
                    entrypoint_num_gpus=job.entry_point.gpus,
                    entrypoint_memory=int(job.entry_point.memory),
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return self._same(self.find(name), job), False  # someone else was faster
        return self.find(name), True

    def _submit(self, **arguments: Any) -> None:
        """Try again while the head is starting: it answers before it accepts jobs."""
        deadline = time.monotonic() + START_SECONDS
        with waiting(f"{self.address} to accept jobs", START_SECONDS):
            while True:
                try:
                    self._client.submit_job(**arguments)
                    return
                except RuntimeError as error:
                    if "No available agent" not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(1)

    def _same(self, attempt: Attempt, job: Job) -> Attempt:
        if (attempt.details.metadata or {}).get(_FINGERPRINT) != job.fingerprint:
            raise AdarError(
                f"{self.address}: another job has the name {attempt.name} ({attempt.status}); "
                "choose another --name"
            )
        return attempt

    def find(self, name: str) -> Attempt:
        """The latest attempt at a job."""
        attempts = self._attempts(name)
        if not attempts:
            known = {attempt.name for attempt in self.jobs()}
            # A head that has started anew knows no job of the one before it.
            hint = nearest(name, known) if known else "; the cluster has no jobs yet: submit it again"
            raise AdarError(f"{self.address}: there is no job {name!r}{hint}")
        return attempts[-1]

    def jobs(self, owner: str | None = None, labels: Mapping[str, str] | None = None) -> list[Attempt]:
        """The latest attempt at every job, newest first; of this owner and with these labels, if given."""
        latest = {attempt.name: attempt for attempt in sorted(self._all(), key=lambda a: a.number)}
        found = [
            attempt
            for attempt in latest.values()
            if owner in (None, attempt.owner) and (labels or {}).items() <= attempt.labels.items()
        ]
        return sorted(found, key=lambda attempt: -(attempt.details.start_time or 0))

    def _attempts(self, name: str) -> list[Attempt]:
        return sorted((a for a in self._all() if a.name == name), key=lambda attempt: attempt.number)

    def _all(self) -> list[Attempt]:
        with self._connection():
            jobs = self._client.list_jobs()
        return [_attempt(job.submission_id, job) for job in jobs if job.submission_id is not None]

    def log(self, attempt: Attempt) -> str:
        """What the attempt has written so far."""
        with self._connection():
            return self._client.get_job_logs(attempt.id)

    def progress(self, attempt: Attempt) -> dict[str, str]:
        """How far the attempt is: see `read_progress`. Nothing if its log is out of reach."""
        with contextlib.suppress(AdarError):
            return read_progress(self.log(attempt))
        return {}

    def follow(self, attempt: Attempt, write: Callable[[str], None]) -> Attempt:
        """Write the log as it grows until the attempt ends; reconnect if the connection breaks.

        Returns:
            The attempt, ended.

        Raises:
            AdarError: the head has not answered for a minute, or it was restarted and lost the job.
        """
        written, answered = 0, time.monotonic()

        async def tail() -> None:
            nonlocal written, answered
            position = 0
            async for text in self._client.tail_job_logs(attempt.id):
                write(text[max(0, written - position) :])
                position += len(text)
                written, answered = max(written, position), time.monotonic()

        def start() -> str | None:
            with contextlib.suppress(*_LOST, RuntimeError, AdarError):
                now = self._again(attempt)
                if not written and now.details.status is JobStatus.PENDING:
                    return f"job {attempt.name} to start ({one_line(now.details.message)})"
            return None

        with self._connection(), waiting(start, end=_GIVEN_UP):
            while True:
                with contextlib.suppress(*_LOST, RuntimeError):
                    asyncio.run(tail())
                try:
                    now = self._again(attempt)
                    if now.has_ended:
                        break
                    answered = time.monotonic()
                except (*_LOST, RuntimeError) as error:
                    logger.info("%s: no answer; trying again", without_secrets(self.address))
                    if time.monotonic() - answered > LOST_SECONDS:
                        raise AdarError(
                            f"{self.address}: the head no longer answers; "
                            f"once it does, continue with `adar-ray job logs -f {attempt.name}`"
                        ) from error
                time.sleep(1)
            with contextlib.suppress(*_LOST, RuntimeError):  # what a broken connection held back
                write(self._client.get_job_logs(attempt.id)[written:])
        return now

    def _again(self, attempt: Attempt) -> Attempt:
        for details in self._client.list_jobs():
            if details.submission_id == attempt.id:
                return _attempt(attempt.id, details)
        raise AdarError(
            f"{self.address}: the head was restarted and no longer knows {attempt.name}; "
            "submit it again under the same name to resume"
        )

    def stop(self, attempt: Attempt) -> Attempt:
        """Stop the attempt and wait until it has ended; an attempt that has ended stays as it is.

        Ray stops an attempt that has not started only when it starts. It is left as it is, still waiting.
        """
        with self._connection(), waiting(f"job {attempt.name} to stop; it is killed after {STOP_SECONDS} s"):
            if not attempt.has_ended:
                self._client.stop_job(attempt.id)
            deadline = time.monotonic() + PENDING_SECONDS
            while not attempt.has_ended:
                if attempt.details.status is JobStatus.PENDING and time.monotonic() > deadline:
                    break
                time.sleep(0.5)
                attempt = self._again(attempt)
        return attempt

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        """Talk to the head without the log of its client; any failure is one line that says what to do."""
        try:
            with loggers_quiet(*_NOISY_LOGGERS):
                yield
        except AuthenticationError as error:
            what = "requires a token" if "required" in str(error) else "rejects this token"
            raise AdarError(
                f"{self.address}: {what}; set RAY_AUTH_TOKEN to the cluster's token, "
                "or RAY_AUTH_TOKEN_PATH to a file that contains it"
            ) from error
        except requests.exceptions.InvalidHeader as error:  # its message contains the token
            raise AdarError(
                "RAY_AUTH_TOKEN, or the file at RAY_AUTH_TOKEN_PATH, must be a single line"
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise AdarError(f"{self.address}: is not a Ray head (it does not answer in JSON)") from error
        except requests.exceptions.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise AdarError(f"{self.address}: does not use TLS; write http:// instead") from error
            reason = re.search(r"certificate verify failed: ([\w' -]+)", str(error))
            raise AdarError(
                f"{self.address}: its certificate is not trusted "
                f"({reason[1].strip() if reason else one_line(error, 160)}); "
                "set REQUESTS_CA_BUNDLE to the certificate of the authority that signed it"
            ) from error
        except _LOST as error:
            raise AdarError(
                f"{self.address}: no Ray head answers ({_reason(error)}); "
                "give --address http://HEAD:8265, and check that the cluster is up"
            ) from error
        except (ValueError, KeyError) as error:
            raise AdarError(f"{self.address}: is not a Ray head ({one_line(error, 160)})") from error
        except RuntimeError as error:
            raise AdarError(f"{self.address}: {one_line(error)}") from error


class _Client(JobSubmissionClient):
    """Ray's client, which would wait for a silent head without a limit and without a word."""

    def _do_request(self, method: str, endpoint: str, **arguments: Any) -> requests.Response:
        with waiting(f"{self._address} to answer", LOST_SECONDS):
            return super()._do_request(method, endpoint, timeout=LOST_SECONDS, **arguments)


def _reason(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    for sign, meaning in (("refused", "connection refused"), ("NameResolution", "no such host")):
        if sign in str(error):
            return meaning
    return one_line(error, 120)


def _dashboard(address: str | None) -> str:
    """The address of the dashboard: the argument, else the environment's, else this machine's."""
    found = address or dashboard_address() or LOCAL
    if urlsplit(found).scheme not in ("http", "https") or not urlsplit(found).netloc:
        raise AdarError(f"--address {found}: write it as http://HEAD:8265 or https://HEAD")
    return found.rstrip("/")


def _token() -> dict[str, str]:
    """The header with the token of the environment. Ray itself would require RAY_AUTH_MODE as well."""
    token, file = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and file:
        try:
            token = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AdarError(f"RAY_AUTH_TOKEN_PATH {file}: cannot be read ({one_line(error)})") from error
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


@contextlib.contextmanager
def _runtime_env(job: Job, name: str) -> Iterator[dict[str, Any]]:
    """Ray's runtime environment for a job; the archive of what is shipped exists inside the context only."""
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


def _who_and_what(job: Job) -> dict[str, str]:
    """The owner and the labels of a job, as Ray keeps them."""
    owner = job.owner
    if owner is None:
        with contextlib.suppress(OSError, KeyError):  # in a container, a user may have no name
            owner = getpass.getuser()
    labels = {f"{_LABEL}{name}": value for name, value in job.labels.items()}
    return labels if owner is None else {_OWNER: owner, **labels}


def _attempt(submission_id: str, details: JobDetails) -> Attempt:
    name, _, number = submission_id.rpartition(".")
    if name and number.isdecimal():
        return Attempt(name, int(number), submission_id, details)
    return Attempt(submission_id, 1, submission_id, details)


def _time(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="seconds")
