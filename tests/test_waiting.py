"""What a wait says, and when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from adar_ray import waiting as module
from adar_ray.waiting import waiting


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_MESSAGES", 0.2)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_long_wait_says_what_for_and_how_long_at_most(caplog: pytest.LogCaptureFixture) -> None:
    with waiting("the bus", 60):
        wait_until(lambda: caplog.records)
    assert caplog.messages[0] == "waiting for the bus, for at most 60 s (0 s so far)"
    assert caplog.records[0].levelno == logging.WARNING


def test_a_short_wait_is_silent_and_leaves_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    with waiting("the bus"):
        pass
    assert threading.active_count() == before
    time.sleep(0.1)
    assert not caplog.messages


def test_a_reason_is_asked_for_until_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    reasons = iter([None, None, "a seat"])
    with waiting(lambda: next(reasons, None)):
        wait_until(lambda: caplog.records)
    assert caplog.messages == ["waiting for a seat, without a limit: Ctrl-C ends it (0 s so far)"]
