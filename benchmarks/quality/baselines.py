"""The library's baselines, and ALS at settings that suit sparse data."""

from __future__ import annotations

from functools import partial

from adar_ray.baselines.als import als
from adar_ray.baselines.names import BASELINES as USUAL

BASELINES = {
    **{name: usual.build for name, usual in USUAL.items()},
    "als-10": partial(als, alpha=10.0, l2=0.1),
}
