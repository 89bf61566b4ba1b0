"""Write a benchmark's result: its figures and everything that they depend on."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from adar_ray.storage import Folder

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("adar-ray", "torch", "numpy", "ray")


class Environment(BaseModel):
    """Where a benchmark ran.

    Attributes:
        versions: of Python and the packages, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    versions: dict[str, str]

    @classmethod
    def here(cls, *packages: str) -> Environment:
        """This machine; `packages` are named in addition to the usual ones, if they are installed."""
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        installed = {name: _version(name) for name in (*_PACKAGES, *packages)}
        versions = {name: version for name, version in installed.items() if version}
        return cls(
            machine=f"{platform.machine()}, {os.cpu_count()} cores, {gpu}",
            versions={"python": platform.python_version(), **versions},
        )


class Result(BaseModel):
    """A file of `benchmarks/results`.

    Attributes:
        description: what the figures are.
        command: what produced them; if several runs added to the file, the latest.
        environment: that of the same run.
        notes: remarks added by hand; a rerun keeps them.
        figures: keys are short identifiers. `benchmarks/pages.py` has the labels for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    command: str
    seeds: list[int]
    environment: Environment
    notes: list[str] = []
    figures: dict[str, Any]


def read(name: str) -> Result | None:
    """The result of this name; None if there is none yet."""
    path = RESULTS / f"{name}.json"
    return Result.model_validate_json(path.read_bytes()) if path.exists() else None


def read_figures(name: str) -> dict[str, Any]:
    """The figures so far, for a benchmark that adds to them."""
    result = read(name)
    return {} if result is None else result.figures


def write(
    name: str,
    figures: Mapping[str, Any],
    *,
    description: str,
    seeds: Iterable[int],
    packages: Iterable[str] = (),
) -> Result:
    """Write `results/NAME.json`, all of it or nothing."""
    before = read(name)
    result = Result(
        description=description,
        command=command(),
        seeds=list(seeds),
        environment=Environment.here(*packages),
        notes=before.notes if before else [],
        figures=dict(figures),
    )
    text = json.dumps(result.model_dump(), indent=2, ensure_ascii=False)
    Folder.at(RESULTS).write_bytes(f"{name}.json", f"{text}\n".encode())
    return result


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation; no deviation of a single value."""
    deviation = {"deviation": statistics.stdev(values)} if len(values) > 1 else {}
    return {"mean": statistics.mean(values), **deviation}


def command() -> str:
    """This process's command, with absolute paths cut down to their last part."""
    spec = sys.modules["__main__"].__spec__
    module = spec.name if spec else Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", module, *map(_without_folders, sys.argv[1:])])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_folders(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument
