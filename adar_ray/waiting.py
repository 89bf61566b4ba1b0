"""Waits that do not stay silent."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from adar_ray.errors import without_secrets

logger = logging.getLogger(__name__)

SILENT_SECONDS = 10.0
SECONDS_BETWEEN_MESSAGES = 60.0


@contextlib.contextmanager
def waiting(
    reason: str | Callable[[], str | None],
    limit: float | None = None,
    end: str = "without a limit: Ctrl-C ends it",
) -> Iterator[None]:
    """Warns what the block waits for if that takes more than 10 s, and again once a minute.

    Args:
        reason: what comes after "waiting for"; or a function that is asked for it, in another thread, and
            returns None while the block is not waiting.
        limit: seconds after which the block gives up by itself.
        end: what ends the wait, if there is no limit.
    """
    ended = threading.Event()
    if limit is not None:
        end = f"for at most {limit:g} s"

    def tell() -> None:
        began, pause = time.monotonic(), SILENT_SECONDS
        while not ended.wait(pause):
            text = reason if isinstance(reason, str) else reason()
            if not text:
                began, pause = time.monotonic(), SILENT_SECONDS
            elif not ended.is_set():
                logger.warning(
                    "waiting for %s, %s (%.0f s so far)", without_secrets(text), end, time.monotonic() - began
                )
                pause = SECONDS_BETWEEN_MESSAGES

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1)  # a reason may take longer to find
