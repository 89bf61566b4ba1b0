"""The command line, called in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from adar_ray.cli.main import cli


@dataclass
class Ended:
    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What was printed, which has to be one JSON document and nothing else."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    def line(self) -> str:
        """The error, which has to be one line and nothing else."""
        assert self.status == 1
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("adar-ray: ")
        return line


Adar = Callable[..., Ended]


def caller(capfd: pytest.CaptureFixture[str]) -> Adar:
    def call(*arguments: object) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli([str(argument) for argument in arguments], prog_name="adar-ray")
        return Ended(caught.value.code or 0, *capfd.readouterr())

    return call
