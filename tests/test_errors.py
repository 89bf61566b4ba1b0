"""Which errors may pass by themselves."""

from __future__ import annotations

import errno

import pytest

from adar_ray.errors import AdarError, TransientError, may_pass


def caused(error: AdarError, cause: Exception) -> AdarError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (AdarError("line 3: the rating is not a number"), False),
        (caused(AdarError("line 3: the rating is not a number"), ValueError()), False),
        (TransientError("a worker failed"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (caused(AdarError("the disk is full"), OSError(errno.ENOSPC, "")), True),
        (caused(AdarError("step 2"), caused(AdarError("the disk is full"), OSError(errno.ENOSPC, ""))), True),
        (ConnectionResetError(), True),
        (FileNotFoundError(), False),
        (caused(AdarError("there is no such file"), FileNotFoundError()), False),
        (PermissionError(), False),
        (MemoryError(), True),
        (KeyError("a bug"), True),
    ],
    ids=repr,
)
def test_what_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes
