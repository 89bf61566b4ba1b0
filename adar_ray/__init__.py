"""Distributed training of recommenders with adaptive diffusion negatives (ADAR), on Ray.

The functions below are loaded on first use, so that importing this package loads neither torch nor Ray.
`adar_ray.adar` holds the method alone, in pure torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adar_ray.comparison.compare import compare
    from adar_ray.data.prepare import prepare
    from adar_ray.inference.evaluate import evaluate
    from adar_ray.inference.export import export
    from adar_ray.inference.publish import publish, rollback
    from adar_ray.inference.recommend import recommend
    from adar_ray.inference.recommender import load
    from adar_ray.training.trainer import resume, train
    from adar_ray.tuning.search import resume_search, tune

    __version__: str

__all__ = [
    "__version__",
    "compare",
    "evaluate",
    "export",
    "load",
    "prepare",
    "publish",
    "recommend",
    "resume",
    "resume_search",
    "rollback",
    "train",
    "tune",
]

_MODULES = {
    "compare": "adar_ray.comparison.compare",
    "evaluate": "adar_ray.inference.evaluate",
    "export": "adar_ray.inference.export",
    "load": "adar_ray.inference.recommender",
    "prepare": "adar_ray.data.prepare",
    "publish": "adar_ray.inference.publish",
    "recommend": "adar_ray.inference.recommend",
    "resume": "adar_ray.training.trainer",
    "resume_search": "adar_ray.tuning.search",
    "rollback": "adar_ray.inference.publish",
    "train": "adar_ray.training.trainer",
    "tune": "adar_ray.tuning.search",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("adar-ray")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
