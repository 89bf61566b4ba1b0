"""Formats with one object per line: JSON, or Python dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from adar_ray.data.files import bad_line, is_text, json_object, lines_of, python_dict
from adar_ray.data.formats.base import Batch, Format, first_line_of
from adar_ray.data.values import unexpected


@dataclass(frozen=True, kw_only=True)
class Objects(Format):
    """One object per line, whose keys are the columns.

    Args:
        parse: (path, line number, line) -> the object; raises AdarError if the line is none.
    """

    parse: Callable[[str, int, str], dict[str, Any]]

    def column_names(self, path: str) -> list[str]:
        return list(self.parse(path, 1, first_line_of(path)))

    def read(self, path: str, columns: dict[str, str], block_bytes: int) -> Iterator[Batch]:
        for lines, numbers in lines_of(path, block_bytes):
            values: dict[str, list[str | None]] = {key: [] for key in columns}
            for line, number in zip(lines.to_pylist(), numbers, strict=True):
                record = self.parse(path, number, line)
                for key, name in columns.items():
                    values[key].append(_value_text(record.get(name), path, number, key))
            yield {key: pa.array(value, pa.string()) for key, value in values.items()}, numbers


def _value_text(value: object, path: str, number: int, key: str) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not (isinstance(value, float) and key in ("user", "item")):
        return repr(value)
    if value is None or (isinstance(value, str) and is_text(value)):
        return value
    raise bad_line(path, number, unexpected(key, value))


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
    parse=python_dict,
)
