"""What is written is readable by whom the owner's umask says, and by nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torch.multiprocessing import get_context

from adar_ray import evaluate, prepare, recommend, train
from adar_ray.config import load_config


def write_everything(umask: int, source: Path, out: Path) -> None:
    os.umask(umask)
    settings = ["train.epochs=2", "model.embedding_dim=4", "adar.pool=8", "train.device=cpu"]
    run = train(prepare(source, out / "data"), out / "run", load_config(settings=settings), workers=0)
    evaluate(run)
    recommend(run, out / "top")


@pytest.mark.parametrize("umask", [0o077, 0o027], ids=oct)
def test_files_and_folders_follow_the_umask(umask: int, hand_made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # A process of its own, which knows nothing of the tests' Ray session.
    process = get_context("spawn").Process(target=write_everything, args=(umask, hand_made, out))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len([*out.rglob("*.json")]) > 3
    for path in (out, *out.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
