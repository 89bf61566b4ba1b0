"""Runs commands in this process, on small data."""

from __future__ import annotations

from pathlib import Path

import pytest

from adar_ray.data.prepare import prepare
from tests.calling import Adar, caller

SMALL = [
    "model.embedding_dim=8",
    "adar.pool=16",
    "train.batch_size=256",
    "train.epochs=2",
    "train.device=cpu",
]
SET = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def adar(capfd: pytest.CaptureFixture[str]) -> Adar:
    """Run a command in this process."""
    return caller(capfd)


@pytest.fixture(scope="module")
def data(hand_made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("cli") / "data"
    prepare(hand_made, out)
    return str(out)


@pytest.fixture
def run(adar: Adar, data: str, tmp_path: Path) -> str:
    assert adar("train", "--data", data, "--out", tmp_path / "run", "--workers", 0, *SET).status == 0
    return str(tmp_path / "run")
