"""ADAR with one thing changed: what the ablation compares.

Legend: B rows of the batch, K negatives a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from adar_ray.adar import AdarSampler, AdarSettings
from adar_ray.models.protocol import dot_score
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Negatives, SamplingContext


class _Plain(AdarSampler):
    """Asks `_transition` for every angle: compiled loops, which are for dot products, do not."""

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        plain = replace(context, score=lambda user_BD, item_BKD: dot_score(user_BD, item_BKD))
        return super().sample(user_BD, positive_BD, plain, rng)


class OneTimestep(_Plain):
    """No score-aware function: the same timestep for every pair, whatever its score.

    Args:
        share: of the way to noise; ADAR's own mean makes a fair comparison.
    """

    def __init__(self, share: float, settings: AdarSettings) -> None:
        super().__init__(settings)
        self.share = share

    def _transition(self, r_B1: torch.Tensor, b_BK: torch.Tensor, z_B1: torch.Tensor) -> torch.Tensor:
        return torch.full_like(b_BK, self.share * math.pi / 2)


class AnyTimestep(_Plain):
    """No transition point: a random timestep for every negative."""

    def _transition(self, r_B1: torch.Tensor, b_BK: torch.Tensor, z_B1: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(b_BK) * (math.pi / 2)


class Detached(AdarSampler):
    """The noise item is detached as well: the gradient reaches only the user."""

    def sample(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, context: SamplingContext, rng: RowRng
    ) -> Negatives:
        def vectors(item: torch.Tensor) -> torch.Tensor:
            return context.vectors(item).detach()

        return super().sample(user_BD, positive_BD, replace(context, vectors=vectors), rng)


Variant = Callable[[], nn.Module]


def variants(base: AdarSettings, mean_timestep: float) -> dict[str, Variant]:
    """What makes each variant, by name.

    Args:
        base: the settings that all variants share.
        mean_timestep: ADAR's, as a share of the way to noise.
    """

    def adar(**changed: Any) -> Variant:
        return lambda: AdarSampler(base.model_copy(update=changed))

    changes: dict[str, list[Any]] = {
        "negatives": [1, 8],
        "candidates": [1, 4, 32],
        "beta": [0.5, 0.7, 0.95],
        "gamma": [0.5],
        "pool": [64, 1024, 4096],
    }
    return {
        "adar": adar(),
        "one_timestep": lambda: OneTimestep(mean_timestep, base),
        "any_timestep": lambda: AnyTimestep(base),
        "noise_item": lambda: OneTimestep(1.0, base),
        "noise_isotropic": adar(noise="isotropic"),
        "noise_detached": lambda: Detached(base),
        **{f"{key}_{value}": adar(**{key: value}) for key, values in changes.items() for value in values},
    }
