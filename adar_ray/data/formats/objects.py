"""Formats with one object per line: JSON, or Python dicts."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.files import bad_line, head, lines_of
from adar_ray.data.formats.base import FEATURE, Batch, Format
from adar_ray.errors import one_line


class NotAnObjectError(Exception):
    """What is wrong with a line that holds no object."""


@dataclass(frozen=True, kw_only=True)
class Objects(Format):
    """One object per line, whose keys are the columns.

    Args:
        parse: line -> the object; raises NotAnObjectError if the line is none.
    """

    parse: Callable[[str], dict[str, Any]]

    def column_names(self, path: str) -> list[str]:
        try:
            return list(self.parse(head(path, self.encoding)[0]))
        except NotAnObjectError as error:
            raise bad_line(path, 1, str(error), "correct it, or pass the right --format") from None

    def read(self, path: str, columns: dict[str, str], block_bytes: int, bad: BadRows) -> Iterator[Batch]:
        for lines, numbers in lines_of(path, block_bytes, self.encoding, bad):
            values: dict[str, list[Any]] = {key: [] for key in columns}
            kept = []
            for line, number in zip(lines.to_pylist(), numbers.tolist(), strict=True):
                try:
                    record = self.parse(line)
                    found = {key: _value(record.get(name), key) for key, name in columns.items()}
                except NotAnObjectError as error:
                    bad.add(number, str(error), line)
                    continue
                kept.append(number)
                for key, value in found.items():
                    values[key].append(value)
            batch = {
                key: pa.array(value, pa.list_(pa.string()) if key.startswith(FEATURE) else pa.string())
                for key, value in values.items()
            }
            yield batch, np.array(kept, int)


def json_object(line: str) -> dict[str, Any]:
    """Parse a line that is a JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotAnObjectError(f"not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise NotAnObjectError("not a JSON object")
    return value


def python_dict(line: str) -> dict[str, Any]:
    """Parse a line that is a Python dict. Only literals are evaluated, so no code of the file runs."""
    try:
        value = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise NotAnObjectError(f"not a valid Python dict ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise NotAnObjectError("not a Python dict")
    return value


def _value(value: object, key: str) -> str | list[str] | None:
    """A value as text; a feature as a list of texts."""
    if not key.startswith(FEATURE):
        return _value_text(value, key)
    if isinstance(value, list):
        return [text for one in value for text in _value(one, key) or ()]
    text = str(value).lower() if isinstance(value, bool) else _value_text(value, key)
    return None if text is None else [text]


def _value_text(value: object, key: str) -> str | None:
    """A value as text; whole numbers that are written as floats lose the fraction."""
    if value is None or (isinstance(value, str) and value.isascii()):
        return value
    is_id = key in ("user", "item")
    if isinstance(value, str) and _is_utf8(value):
        return value
    if isinstance(value, float) and is_id:
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) <= 2**53:
            return repr(int(value))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return repr(value)
        except ValueError:  # Python does not print integers of more than 4,300 digits
            pass
    is_plain = isinstance(value, (str, bytes, float, bool))
    shown = one_line(repr(value), 60) if is_plain else f"(of type {type(value).__name__})"
    raise NotAnObjectError(f"the {key} {shown} is not text or a {'whole ' if is_id else ''}number")


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


JSONL = Objects(
    name="jsonl",
    description="one JSON object per line",
    sure_names=("*.jsonl", "*.ndjson"),
    other_names=("*.json",),
    first_line=r"\{(?!\s*u?').*\}",
    parse=json_object,
)
PYDICT = Objects(
    name="pydict",
    description="one Python dict per line, as in Steam's reviews: {u'username': u'...', ...}",
    other_names=("*.json",),
    first_line=r"\{\s*u?'.*\}",
    any_word_is_an_id=True,  # a dict has a None of its own, and Steam has a user of that name
    parse=python_dict,
)
