"""Training gives the figures it gave when the golden runs were recorded.

A change that alters results on purpose records them anew with `tests/golden/record.py` and says by how much,
over seeds.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden.record import RUNS, config_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Elsewhere other instructions round differently; there six digits have to agree.
IS_WHERE_RECORDED = platform.machine() == "x86_64" and sys.platform == "linux"


def record(out: Path, *arguments: str) -> Path:
    """Trains in a process of its own, which limits torch's kernels before torch is imported."""
    command = [sys.executable, "-m", "tests.golden.record", str(out), *arguments]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("golden") / "workers-0", "--workers", "0")


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("golden") / "workers-2", "--workers", "2")


def assert_same(ours: Path, golden: Path) -> None:
    if IS_WHERE_RECORDED:
        assert ours.read_bytes() == golden.read_bytes()
        return
    for one, other in zip(lines(ours), lines(golden), strict=True):
        assert_close(one, other)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def assert_close(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    else:
        assert math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_training_in_one_process_repeats_the_golden_run(in_one_process: Path, name: str) -> None:
    assert_same(in_one_process / f"{name}.jsonl", HERE / "workers-0" / f"{name}.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_training_in_two_processes_repeats_the_golden_run(in_two_processes: Path, name: str) -> None:
    assert_same(in_two_processes / f"{name}.jsonl", HERE / "workers-2" / f"{name}.jsonl")


@pytest.mark.ray
@pytest.mark.slow
def test_training_on_two_ray_workers_repeats_the_golden_run(tmp_path: Path) -> None:
    record(tmp_path, "--workers", "2", "--ray", "--runs", "loss-softmax-adar")
    golden = HERE / "workers-2" / "loss-softmax-adar.jsonl"
    assert_same(tmp_path / "loss-softmax-adar.jsonl", golden)


def has_dropout(name: str) -> bool:
    config = config_of(name)
    return getattr(config.settings_of(config.model.name), "dropout", 0) > 0


@pytest.mark.parametrize("name", [name for name in RUNS if not has_dropout(name)])
def test_two_processes_train_as_one_does_but_for_rounding(name: str) -> None:
    one, two = (lines(HERE / f"workers-{workers}" / f"{name}.jsonl") for workers in (0, 2))
    for epoch, other in zip(one, two, strict=True):
        for figure in ("loss", "penalty"):
            assert math.isclose(epoch[figure], other[figure], rel_tol=1e-5)
        for figure, value in epoch["valid"].items():
            # One user's item more or less among the first: rounding may order two that score alike.
            assert math.isclose(value, other["valid"][figure], rel_tol=1e-3, abs_tol=1e-3), figure


def test_every_golden_run_is_trained() -> None:
    for workers in (0, 2):
        assert {path.stem for path in (HERE / f"workers-{workers}").iterdir()} == set(RUNS)
