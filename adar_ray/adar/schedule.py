"""The forward process, in its angle.

A schedule gives `alpha_bar_t`, the share of signal variance left after t of T steps. All that the
method needs of it is the angle `phi_t = arccos sqrt(alpha_bar_t)`, from 0 (the positive itself) to
pi / 2 (nothing left of it). On the cosine schedule the angle is proportional to the timestep.
"""

from __future__ import annotations

import math

import torch


def angle(timestep: torch.Tensor, T: int) -> torch.Tensor:
    """`phi_t = pi t / 2T`, the cosine schedule `alpha_bar_t = cos^2(phi_t)`; t in `[0, T]`."""
    return timestep * (math.pi / (2 * T))


def timestep(phi: torch.Tensor, T: int) -> torch.Tensor:
    """The step whose angle is nearest to `phi`: `t = round(2 T phi / pi)`."""
    return torch.round(phi * (2 * T / math.pi))


def diffuse(
    positive: torch.Tensor, noise: torch.Tensor, mean: torch.Tensor, phi: torch.Tensor
) -> torch.Tensor:
    """`x_t = mu + cos(phi_t) (x_0 - mu) + sin(phi_t) (n - mu)`, broadcast over leading dimensions.

    Args:
        positive: `x_0`, `[..., D]`.
        noise: `n`, `[..., D]`: a real item drawn from the catalogue, which has the catalogue's mean and
            covariance exactly, so that nothing needs whitening.
        mean: `mu`, `[D]`, the catalogue's mean.
        phi: `[...]`, angles in `[0, pi / 2]`.
    """
    cos, sin = torch.cos(phi)[..., None], torch.sin(phi)[..., None]
    # The same sum with mu's share collected, which saves a pass over the noise.
    return cos * positive + sin * noise + (1 - cos - sin) * mean
