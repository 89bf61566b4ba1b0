"""Which errors may pass by themselves."""

from __future__ import annotations

import errno

import pytest

from adar_ray.errors import AdarError, TransientError, counted, has_secret, may_pass, one_line


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host:8265 is down", "http://***@host:8265 is down"),
        ("s3://:hunter2@bucket/x", "s3://***@bucket/x"),
        ("s3://me:hun/ter+2@bucket/x is no address", "s3://***@bucket/x is no address"),
        ("postgres://me:hun@ter2@host/db", "postgres://***@host/db"),
        (
            "AccountName=me;AccountKey=hunter2==;EndpointSuffix=x",
            "AccountName=me;AccountKey=***;EndpointSuffix=x",
        ),
        ("s3://bucket/x?access_key=hunter2", "s3://bucket/x?access_key=***"),
        ("s3://bucket/x?secret_key=hunter2&region=here", "s3://bucket/x?secret_key=***&region=here"),
        ("https://host/x?X-Amz-Signature=hunter2", "https://host/x?X-Amz-Signature=***"),
        ("https://host/x?sig=hunter2", "https://host/x?sig=***"),
        ("--token=hunter2", "--token=***"),
    ],
)
def test_no_message_holds_a_secret(text: str, shown: str) -> None:
    assert has_secret(text)
    assert str(AdarError(text)) == one_line(text) == shown


@pytest.mark.parametrize(
    "text", ["s3://bucket/a@b:c", "http://host:8265/a@b", "http://[::1]:80/a@b", "design=1", "/me:you@here"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert not has_secret(text)
    assert str(AdarError(text)) == one_line(text) == text


@pytest.mark.parametrize(
    ("number", "shown"),
    [(1, "1 entry"), (0, "0 entries"), (2000, "2,000 entries"), (1.0, "1 entry"), (0.5, "0.5 entries")],
)
def test_one_is_no_plural(number: float, shown: str) -> None:
    assert counted(number, "entry", "entries") == shown
    assert counted(number, "CPU").endswith("CPUs") == (number != 1)
