"""Distributed training of recommenders with adaptive diffusion negatives (ADAR), on Ray.

`adar_ray.adar` is the method alone, in pure torch: importing it loads nothing of Ray.
"""

from __future__ import annotations

import importlib
from typing import Any

_FUNCTIONS = {
    "prepare": "adar_ray.data.prepare",
    "train": "adar_ray.training.trainer",
    "resume": "adar_ray.training.trainer",
    "evaluate": "adar_ray.inference.evaluate",
    "recommend": "adar_ray.inference.recommend",
    "export": "adar_ray.inference.export",
}

__all__ = sorted(_FUNCTIONS)


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FUNCTIONS[name]), name)
