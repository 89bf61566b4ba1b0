"""What a failure of Ray Train comes down to."""

from __future__ import annotations

import re

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from adar_ray.errors import AdarError, TransientError, error_line, one_line


def cause_of(error: BaseException) -> AdarError:
    """The AdarError that a worker raised, or a TransientError that says how a worker died or failed."""
    failures = [_original(failure) for failure in getattr(error, "worker_failures", {0: error}).values()]
    for failure in failures:
        if isinstance(failure, AdarError):
            return failure
    for failure in failures:  # that the others are left alone follows from it
        if isinstance(failure, RayActorError):
            return TransientError(f"a worker died ({_death(failure)})")
    return TransientError(f"a worker failed ({error_line(failures[0], 400)})")


def _original(failure: BaseException) -> BaseException:
    """A failure without Ray's wrapper."""
    if isinstance(failure, UserExceptionWithTraceback):
        return failure._base_exc
    if isinstance(failure, WorkerHealthCheckFailedError):
        return failure.health_check_failure
    if isinstance(failure, ControllerError):
        return failure.controller_failure
    return failure


def _death(error: RayActorError) -> str:
    """How a worker died, of which Ray tells in some twenty lines."""
    if isinstance(error, ActorUnavailableError):
        return "it no longer answers"
    text = str(error)
    address, process = re.search(r"\bip: (\S+)", text), re.search(r"\bpid: (\d+)", text)
    where = f" on {address[1]}" if address else ""
    if "node has died" in text or "node was terminated" in text:
        return f"its machine{where} is gone"
    if process is None:
        return one_line(text, 200)
    return f"process {process[1]}{where}" + (", out of memory" if "low on memory" in text else "")
