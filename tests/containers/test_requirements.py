"""What the image installs and sets."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from ray.dashboard.consts import DEFAULT_JOB_START_TIMEOUT_SECONDS, RAY_JOB_START_TIMEOUT_SECONDS_ENV_VAR

from adar_ray.cluster.driver import STOP_SECONDS
from tests.containers.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the image has Python 3.11, with tomllib")


def requirements(extras: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, ROOT / "docker" / "requirements.py", ROOT / "pyproject.toml"]
    return subprocess.run(script, env={"EXTRAS": extras}, capture_output=True, text=True, check=False)


def test_the_image_has_the_extras_that_are_asked_for() -> None:
    plain = requirements("").stdout.splitlines()
    assert any(line.startswith("torch") for line in plain)
    assert not any("serve" in line or line.startswith(("mlflow", "wandb", "onnx")) for line in plain)
    more = requirements("serve,export, mlflow,wandb").stdout.splitlines()
    assert more[: len(plain)] == plain
    names = {line.split(">")[0].split("=")[0] for line in more[len(plain) :]}
    assert names == {"ray[serve]", "faiss-cpu", "onnx", "onnxscript", "mlflow-skinny", "wandb"}


def test_an_extra_that_is_not_offered_is_one_line() -> None:
    ended = requirements("serve,mlfow")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "EXTRAS=serve,mlfow: there is no mlfow; give some of serve,export,mlflow,wandb\n"


def test_a_job_that_something_else_submits_has_time_to_save_too() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\S+)", dockerfile) == [str(STOP_SECONDS)]


def test_a_job_may_wait_longer_for_room_than_by_default() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    (seconds,) = re.findall(rf"{RAY_JOB_START_TIMEOUT_SECONDS_ENV_VAR}=(\S+)", dockerfile)
    assert int(seconds) > DEFAULT_JOB_START_TIMEOUT_SECONDS
