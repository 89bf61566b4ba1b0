"""The forward process, in its angle.

A schedule gives `alpha_bar_t`, the share of signal variance left after t of T steps. The method only needs
the angle `phi_t = arccos sqrt(alpha_bar_t)`, from 0 (the positive itself) to pi / 2 (nothing left of it). The
transition point is an angle; a schedule says at which steps the process may stop.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def cosine_signal(time: torch.Tensor) -> torch.Tensor:
    """`alpha_bar = cos^2(pi time / 2)`: equal steps of the angle.

    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (ICML 2021), eq. 17, without
    its offset, which keeps the first step of an image above its pixels' resolution.
    """
    return torch.cos(time * (math.pi / 2)) ** 2


def linear_signal(time: torch.Tensor) -> torch.Tensor:
    """`alpha_bar = prod (1 - beta_s)` with `beta_s` from 1e-4 to 0.02 over a thousand steps.

    As in DDPM (Ho et al., NeurIPS 2020), in continuous time: `alpha_bar = exp(-integral of beta)`. Its square
    root is then shifted and scaled until nothing is left at the end (Lin et al., WACV 2024, algorithm 1).
    """
    low, high = 0.1, 20.0
    root = torch.exp(-0.5 * (low * time + 0.5 * (high - low) * time**2))
    end = math.exp(-0.5 * (low + 0.5 * (high - low)))
    return ((root - end) / (1 - end)) ** 2


def sigmoid_signal(time: torch.Tensor) -> torch.Tensor:
    """`alpha_bar` falls like a sigmoid from -3 to 3, scaled to 1 at the start and 0 at the end.

    Jabri et al., "Scalable Adaptive Computation for Iterative Generation" (ICML 2023), with start -3, end 3
    and temperature 1.
    """
    low, high = (1 / (1 + math.exp(-x)) for x in (-3, 3))
    return (high - torch.sigmoid(6 * time - 3)) / (high - low)


SIGNALS = {"cosine": cosine_signal, "linear": linear_signal, "sigmoid": sigmoid_signal}


class Schedule(nn.Module):
    """The angles of steps 0 to T.

    Args:
        name: of `SIGNALS`.
        T: steps.
    """

    phi_T: torch.Tensor
    between_T: torch.Tensor
    cos_between_T: torch.Tensor
    first_R: torch.Tensor
    cos_T: torch.Tensor
    sin_T: torch.Tensor

    def __init__(self, name: str, T: int) -> None:
        super().__init__()
        time = torch.linspace(0, 1, T + 1, dtype=torch.float64)
        phi_T = torch.arccos(SIGNALS[name](time).clamp(0, 1).sqrt())
        phi_T[0], phi_T[-1] = 0.0, math.pi / 2  # which rounding may miss
        self.T = T
        self.register_buffer("phi_T", phi_T, persistent=False)
        self.register_buffer("between_T", (phi_T[1:] + phi_T[:-1]) / 2, persistent=False)
        self.register_buffer("cos_between_T", torch.cos(self.between_T), persistent=False)
        # Where to begin the search for a cosine: the first step that may be nearest in each of R ranges.
        # They are a power of two, so that rounding moves no cosine into the next range.
        ranges = 4 << T.bit_length()
        above_R = torch.arange(1, ranges + 2, dtype=torch.float64) / ranges
        first_R = torch.searchsorted(-self.cos_between_T, -above_R)
        self.register_buffer("first_R", first_R, persistent=False)
        self.register_buffer("cos_T", torch.cos(phi_T).float(), persistent=False)
        self.register_buffer("sin_T", torch.sin(phi_T).float(), persistent=False)

    def angle(self, timestep: torch.Tensor) -> torch.Tensor:
        """`phi_t` in double precision, for whole steps t in `[0, T]`."""
        return self.phi_T[timestep]

    def timestep(self, phi: torch.Tensor) -> torch.Tensor:
        """The whole step whose angle is nearest to `phi`."""
        return torch.bucketize(phi.to(self.between_T.dtype), self.between_T)


def diffuse(
    positive: torch.Tensor, noise: torch.Tensor, mean: torch.Tensor, phi: torch.Tensor
) -> torch.Tensor:
    """`x_t = mu + cos(phi_t) (x_0 - mu) + sin(phi_t) (n - mu)`, broadcast over leading dimensions.

    Args:
        positive: `x_0`, `[..., D]`.
        noise: `n`, `[..., D]`.
        mean: `mu`, `[D]`, the mean of the noise.
        phi: `[...]`, angles in `[0, pi / 2]`.
    """
    cos, sin = torch.cos(phi)[..., None], torch.sin(phi)[..., None]
    # The same sum with mu's share collected, which saves a pass over the noise.
    return cos * positive + sin * noise + (1 - cos - sin) * mean
