"""Reading ahead: a thread produces values while the caller works on those before them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
_DEPTH = 2
_SECONDS_BETWEEN_LOOKS = 0.1


def read_ahead(values: Iterator[T]) -> Iterator[T]:
    """Yield the same values, and raise the same error, while the next ones are produced by a thread."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(_DEPTH)
    is_over = threading.Event()

    def put(value: tuple[T] | BaseException | None) -> bool:
        while not is_over.is_set():
            try:
                queue.put(value, timeout=_SECONDS_BETWEEN_LOOKS)
            except Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for value in values:
                if not put((value,)):
                    return
            put(None)
        except BaseException as error:
            put(error)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    try:
        while (found := queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        is_over.set()
        producer.join()
