"""Durations such as `30m` or `1h30m`, as options and files give them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from adar_ray.errors import AdarError, one_line

LONGEST = 10 * 365 * 86400.0  # seconds


def parse_duration(text: str | float) -> float:
    """Seconds in `text`: a number of seconds, or days, hours, minutes and seconds such as `1h30m`.

    Raises:
        AdarError: it is not a duration, or not above 0, or above ten years.
    """
    number = r"(\d+(?:\.\d+)?)"
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = "".join(f"(?:{number}{unit})?" for unit in units)
    if re.fullmatch(number, str(text)):
        seconds = float(text)
    elif match := re.fullmatch(parts, str(text)):
        seconds = sum(
            float(part or 0) * unit for part, unit in zip(match.groups(), units.values(), strict=True)
        )
    else:
        seconds = 0.0
    if seconds <= 0:
        raise AdarError(
            f"{one_line(repr(text), 40)} is not a duration: give seconds, or such as 30m, 2h or 1h30m"
        )
    if seconds > LONGEST:
        raise AdarError(f"{one_line(text, 30)} is too long: give at most 3650d")
    return seconds


def _parsed(duration: Any) -> float:
    try:
        return parse_duration(duration)
    except AdarError as error:  # which Pydantic would let through
        raise ValueError(str(error)) from error


Seconds = Annotated[float, Field(gt=0, le=LONGEST), BeforeValidator(_parsed)]
"""A key of a file that is given as a duration."""
