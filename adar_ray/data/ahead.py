"""Reading ahead: a thread produces values while the caller works on those before them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from queue import Empty, Queue
from typing import TypeVar

T = TypeVar("T")
_DEPTH = 2
_SECONDS_BETWEEN_LOOKS = 0.01


def read_ahead(values: Iterator[T]) -> Iterator[T]:
    """Yield the same values, and raise the same error, while a thread produces the next ones."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(_DEPTH)
    is_over = threading.Event()

    def produce() -> None:
        try:
            for value in values:
                queue.put((value,))
                if is_over.is_set():
                    return
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    try:
        while (found := queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        is_over.set()
        while producer.is_alive():  # it may wait for room
            with contextlib.suppress(Empty):
                queue.get(timeout=_SECONDS_BETWEEN_LOOKS)
