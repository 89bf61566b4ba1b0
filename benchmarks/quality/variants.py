"""Samplers that are ADAR but for one thing: what an ablation compares.

Legend: B rows of the batch, K negatives a row, D dimensions, H width of the predictor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.functional import mse_loss

from adar_ray.adar import AdarSampler
from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items, Negatives


class OneTimestep(AdarSampler):
    """No score-aware function: the same timestep for every pair, whatever its score.

    Args:
        share: of the way to noise; ADAR's own mean is the fair one.
    """

    def __init__(self, share: float, **parameters) -> None:
        super().__init__(**parameters)
        self.share = share

    def _transition(self, r_B1, b_BK, z_B1, score_at) -> torch.Tensor:
        return torch.full_like(b_BK, self.share * math.pi / 2)


class AnyTimestep(AdarSampler):
    """No transition point: a timestep at random for every negative."""

    def _transition(self, r_B1, b_BK, z_B1, score_at) -> torch.Tensor:
        return torch.rand_like(b_BK) * (math.pi / 2)


class NoisePredictor(nn.Module):
    """`tau(x_t, t, e_u)`: the noise in a diffused positive, for a user. A network of one hidden layer."""

    def __init__(self, dim: int, hidden: int = 128, frequencies: int = 8) -> None:
        super().__init__()
        self.register_buffer("frequency_F", math.pi * torch.arange(1, frequencies + 1))
        self.layers = nn.Sequential(
            nn.Linear(2 * dim + 2 * frequencies, hidden), nn.SiLU(), nn.Linear(hidden, dim)
        )

    def forward(self, x_BKD: torch.Tensor, time_BK: torch.Tensor, user_BD: torch.Tensor) -> torch.Tensor:
        wave_BKF = time_BK[..., None] * self.frequency_F
        user_BKD = user_BD[:, None].expand_as(x_BKD)
        return self.layers(torch.cat([x_BKD, user_BKD, wave_BKF.sin(), wave_BKF.cos()], -1))


class Denoised(AdarSampler):
    """The positive is diffused beyond its transition point and brought back by a learned noise predictor.

    The predictor trains alongside on detached vectors, in units of the pool's mean and deviation. One step of
    DDIM (Song et al., ICLR 2021, eq. 12 with sigma 0) leads back to the transition point; the gradient passes
    straight through to the noise item, as without it.

    Args:
        beyond: how much farther, as a share of what is left of the way.
    """

    def __init__(self, dim: int, beyond: float, **parameters) -> None:
        super().__init__(**parameters)
        self.beyond, self.predictor = beyond, NoisePredictor(dim)

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        looked_up: list[torch.Tensor] = []

        def vectors(item: torch.Tensor) -> torch.Tensor:
            looked_up.append(items.vectors(item))
            return looked_up[-1]

        negatives = super().forward(user_BD, positive_BD, replace(items, vectors=vectors), rng)
        pool_PD = looked_up[0].detach()
        mean_D, scale = pool_PD.mean(0), pool_PD.std(0).mean().clamp_min(1e-6)
        user_BD = user_BD.detach() / user_BD.detach().std().clamp_min(1e-6)

        phi_BK1 = (negatives.timestep_BK * (math.pi / 2))[..., None]
        noise_BKD = (negatives.source[1].detach() - mean_D) / scale
        start_BKD = ((positive_BD.detach() - mean_D) / scale)[:, None].expand_as(noise_BKD)
        sin, cos = phi_BK1.sin(), phi_BK1.cos()

        far_BK1 = phi_BK1 + self.beyond * (math.pi / 2 - phi_BK1)
        far_BKD = far_BK1.cos() * start_BKD + far_BK1.sin() * noise_BKD
        time_BK = far_BK1[..., 0] / (math.pi / 2)
        guess_BKD = self.predictor(far_BKD, time_BK, user_BD)
        loss_B = mse_loss(guess_BKD, noise_BKD, reduction="none").mean((1, 2))

        with torch.no_grad():
            begin_BKD = (far_BKD - far_BK1.sin() * guess_BKD) / far_BK1.cos().clamp_min(0.05)
            back_BKD = (cos * begin_BKD + sin * guess_BKD) * scale + mean_D
            back_BKD = torch.where(time_BK[..., None] > 0.97, negatives.vector_BKD, back_BKD)
        straight_BKD = negatives.vector_BKD + (back_BKD - negatives.vector_BKD).detach()
        return replace(negatives, vector_BKD=straight_BKD, loss_B=loss_B)


class Detached(AdarSampler):
    """The noise item enters detached as well: the gradient reaches the user alone."""

    def forward(
        self, user_BD: torch.Tensor, positive_BD: torch.Tensor, items: Items, rng: RowRng | None = None
    ) -> Negatives:
        def vectors(item: torch.Tensor) -> torch.Tensor:
            return items.vectors(item).detach()

        return super().forward(user_BD, positive_BD, replace(items, vectors=vectors), rng)


Variant = Callable[[int], nn.Module]


def variants(base: dict, mean_timestep: float) -> dict[str, Variant]:
    """Every variant by name, as a function of D, around the settings `base`."""

    def adar(**changed) -> Variant:
        return lambda dim: AdarSampler(**{**base, **changed}, dim=dim)

    return {
        "ADAR": adar(),
        "no score-aware function: one timestep": lambda dim: OneTimestep(mean_timestep, **base),
        "no transition point: any timestep": lambda dim: AnyTimestep(**base),
        "t = T: the noise item itself": lambda dim: OneTimestep(1.0, **base),
        "noise: gaussian": adar(noise="gaussian"),
        "noise: gaussian, diagonal": adar(noise="gaussian_diagonal"),
        "noise: isotropic": adar(noise="isotropic"),
        "schedule: linear": adar(schedule="linear"),
        "schedule: sigmoid": adar(schedule="sigmoid"),
        "T = 10": adar(T=10),
        "denoised from half way beyond": lambda dim: Denoised(dim, 0.5, **base),
        "denoised from a fifth beyond": lambda dim: Denoised(dim, 0.2, **base),
        "noise item detached": lambda dim: Detached(**base),
        "positive attached": adar(attach=True),
        "warm-up of 5 epochs": adar(warmup=5),
        "K = 1": adar(K=1),
        "K = 8": adar(K=8),
        "M = 1": adar(M=1),
        "M = 4": adar(M=4),
        "M = 32": adar(M=32),
        "beta = 0.5": adar(beta=0.5),
        "beta = 0.7": adar(beta=0.7),
        "beta = 0.95": adar(beta=0.95),
        "gamma = 0": adar(gamma=0.0),
        "gamma = -1": adar(gamma=-1.0),
        "phi_min = 0": adar(phi_min=0.0),
        "phi_min = 0.3": adar(phi_min=0.3),
        "pool = 64": adar(pool=64),
        "pool = 1024": adar(pool=1024),
        "pool = 4096": adar(pool=4096),
    }
