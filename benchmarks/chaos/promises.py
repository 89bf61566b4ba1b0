"""What has to hold after a fault, checked in the files of a run, a dataset or a search."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.chaos.processes import Command

# Of a run: what depends on when something was written.
_NOT_COMPARED = re.compile(r"(.*/)?(checkpoints|tensorboard|replaced)/.*|(.*/)?(lease|progress)\.json")
_STRAY = re.compile(r"(^|/)(\.[^/]*\.partial|ray-[0-9a-f]{8}|lease\.json|progress\.json)(/|$)")

_OF_RAY = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")  # what Ray's processes log


class BrokenError(Exception):
    """A promise that was not kept."""


def files(folder: Path) -> dict[str, bytes]:
    """The files in a folder and in those in it, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` so far; none if there is no such file."""
    try:
        return [json.loads(line) for line in (run / "metrics.jsonl").read_bytes().splitlines()]
    except FileNotFoundError:
        return []


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """The same without the times, and without the checksums, which cover them."""
    return [{k: v for k, v in line.items() if k not in ("time", "sha256")} for line in lines_of(run)]


def check_epochs(run: Path, whole: Path) -> None:
    """The epochs so far are those of the undisturbed run."""
    found, expected = epochs_of(run), epochs_of(whole)
    numbers = [line["epoch"] for line in found]
    if numbers != list(range(1, len(found) + 1)):
        raise BrokenError(f"metrics.jsonl has the epochs {numbers}")
    for line, other in zip(found, expected, strict=False):
        if line != other:
            names = sorted(name for name in line.keys() | other.keys() if line.get(name) != other.get(name))
            raise BrokenError(f"epoch {line['epoch']} differs in {', '.join(names)}")


def check_trials(search: Path, whole: Path) -> None:
    """The epochs so far of each trial of a search are those of the undisturbed one."""
    for trial in search.glob("trials/*"):
        check_epochs(trial, whole / "trials" / trial.name)


def check_run(run: Path, whole: Path) -> None:
    """A finished run is, file by file, the undisturbed one."""
    check_epochs(run, whole)
    check_files(run, whole)


def check_files(folder: Path, whole: Path) -> None:
    """A folder holds what the undisturbed one holds, and nothing besides."""
    found, expected = files(folder), files(whole)
    strays = {match[0].strip("/") for name in found if (match := _STRAY.search(name))}
    if strays:
        raise BrokenError(f"{', '.join(sorted(strays))} was left behind")
    for content in (found, expected):
        for name in [name for name in content if _NOT_COMPARED.fullmatch(name)]:
            del content[name]
    if differ := sorted(found.keys() ^ expected.keys()):
        raise BrokenError(f"{differ[0]} is there or missing, unlike in the undisturbed one")
    for name, content in found.items():
        if _comparable(name, content) != _comparable(name, expected[name]):
            raise BrokenError(f"{name} differs from the undisturbed one")


def _comparable(name: str, content: bytes) -> Any:
    """A file's content without times, addresses and names of machines."""
    last = name.rpartition("/")[2]
    if last == "config.yaml":
        return {k: v for k, v in yaml.safe_load(content).items() if k != "run"}
    if last in _UNTIMED:
        return _UNTIMED[last](content)
    return content


def _without(*names: str) -> Callable[[bytes], Any]:
    def read(content: bytes) -> Any:
        return [
            {key: value for key, value in json.loads(line).items() if key not in names}
            for line in ([content] if content.startswith(b"{\n") else content.splitlines())
        ]

    return read


_UNTIMED: dict[str, Callable[[bytes], Any]] = {
    "metrics.jsonl": _without("time", "sha256"),
    "result.json": _without("train_seconds", "cost", "sha256"),
    "trial.json": _without("started", "seconds", "sha256"),
    "search.yaml": lambda content: None,
    "trials.parquet": lambda content: None,
    "report.html": lambda content: None,
}


def check_words(command: Command, *, is_job: bool = False) -> str:
    """A command that failed says why in one line; returns it.

    Args:
        is_job: whether it follows a job, whose log may end with something else.
    """
    messages = [line for line in command.messages if not _OF_RAY.match(line)]
    if any("Traceback" in line for line in messages):
        raise BrokenError(f"a traceback: {messages[-1][:200]}")
    told = [line for line in messages if line.startswith("adar-ray: ")]
    if is_job:
        return told[-1].removeprefix("adar-ray: ") if told else ""
    if len(told) != 1 or messages[-1] != told[0]:
        raise BrokenError(f"ended with status {command.status} and said at last: {messages[-1:]}")
    return told[0].removeprefix("adar-ray: ")


def next_words(message: str) -> list[str] | None:
    """The command that a message names."""
    found = re.search(r"`adar-ray ([^`]*)`", message)
    return found[1].split() if found else None
