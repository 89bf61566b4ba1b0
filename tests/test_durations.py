"""Durations such as `1h30m`."""

from __future__ import annotations

import re

import pytest

from adar_ray.durations import parse_duration
from adar_ray.errors import AdarError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("90", 90), (90, 90), (1.5, 1.5), ("45s", 45), ("30m", 1800), ("2h", 7200), ("1d", 86400)),
        *(("1h30m", 5400), ("1h30m15s", 5415), ("1.5h", 5400), ("1d12h", 129600)),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1h30", "30m1h", "-5m", "0", "0h", "1 h", "h", ".5h", "nan"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(AdarError, match=re.escape(repr(text))):
        parse_duration(text)
