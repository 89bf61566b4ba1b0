"""What several tests of jobs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from adar_ray.cluster.job import Job
from adar_ray.errors import AdarError

TRAIN = "train --data $storage/data --out $storage/runs/$name"


def write(folder: Path, **keys: Any) -> Path:
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump({"storage": "/data", "steps": [TRAIN]} | keys), encoding="utf-8")
    return file


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def job_of(tmp_path: Path, *steps: str) -> Job:
    return Job.load(write(tmp_path, storage=str(tmp_path), steps=list(steps)))
