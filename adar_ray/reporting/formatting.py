"""How reports and progress write numbers, durations and what users wrote."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from adar_ray.errors import one_line


def as_text(value: Any, limit: int = 60) -> str:
    """`value` for people: four digits, or one line of text without unprintable characters."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return one_line(text, limit)


def score(value: float) -> str:
    """A value of the metric, with four digits even if the last ones are 0."""
    return f"{value:#.4g}".removesuffix(".")


def escaped(text: Any, limit: int = 300) -> str:
    return html.escape(as_text(text, limit))


def duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def span(first: object, last: object) -> str:
    """What goes from `first` to `last`, such as `2 – 5`; only `2` if both are 2."""
    return str(first) if first == last else f"{first} – {last}"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
