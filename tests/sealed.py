"""Files that end with their checksum: what they say besides, and how a test writes others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adar_ray.documents import to_record


def read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text())
    del content["sha256"]
    return content


def read_lines(file: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    del lines[-1]["sha256"]
    return lines


def write(file: Path, content: dict[str, Any]) -> None:
    file.write_bytes(to_record(content))
