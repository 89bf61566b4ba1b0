"""What is written is readable by whom the owner's umask says, and by nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adar_ray import evaluate, prepare, recommend, train
from adar_ray.config import load_config


@pytest.fixture(params=[0o077, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_folders_follow_the_umask(umask: int, hand_made: Path, tmp_path: Path) -> None:
    settings = ["train.epochs=2", "model.embedding_dim=4", "adar.pool=8", "train.device=cpu"]
    out = tmp_path / "out"
    run = train(prepare(hand_made, out / "data"), out / "run", load_config(settings=settings), workers=0)
    evaluate(run)
    recommend(run, out / "top")
    for path in (out, *out.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
