"""Values that a thread produces ahead: the same ones, the same errors, and an end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from adar_ray.data.ahead import read_ahead


def test_the_same_values() -> None:
    assert list(read_ahead(iter([1, None, 3, *range(20)]))) == [1, None, 3, *range(20)]
    assert list(read_ahead(iter([]))) == []


def test_the_error_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    ahead = read_ahead(values())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(ahead)


def test_a_caller_that_stops_early_stops_the_thread() -> None:
    before = threading.active_count()
    closed = threading.Event()

    def values() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    ahead = read_ahead(values())
    assert next(ahead) == 1
    ahead.close()
    assert closed.wait(5)
    assert threading.active_count() == before
