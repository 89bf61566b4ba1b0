"""The forward process, where a positive turns negative in it, and the score-aware function that decides it.

The process is continuous in its angle `phi`, from 0 (the positive itself) to pi / 2 (the noise itself).
Scores are in the user's own units: the score less its mean over the pool of noise, divided by its standard
deviation there, which cancels out if `gamma` is 1. `r` is the positive's, `b` the noise item's. Along the
trajectory the score is `r cos(phi) + b sin(phi)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

_TINY = 1e-6
_HALVINGS = 10  # of a quarter turn: to a thousandth of it


def diffuse(
    positive: torch.Tensor, noise: torch.Tensor, mean: torch.Tensor, phi: torch.Tensor
) -> torch.Tensor:
    """`x = mu + cos(phi) (x_0 - mu) + sin(phi) (n - mu)`, broadcast over leading dimensions.

    Args:
        positive: `x_0`, `[..., D]`.
        noise: `n`, `[..., D]`.
        mean: `mu`, `[D]`, the mean of the noise.
        phi: `[...]`, angles in `[0, pi / 2]`.
    """
    cos, sin = torch.cos(phi)[..., None], torch.sin(phi)[..., None]
    # The same sum with mu's share collected, which saves a pass over the noise.
    return cos * positive + sin * noise + (1 - cos - sin) * mean


def score_aware_boundary(
    r: torch.Tensor, beta: torch.Tensor | float, gamma: float, r_mean: torch.Tensor | float
) -> torch.Tensor:
    """The score `z` at which the positive turns negative: `z(r) = min(r, beta r_mean (r / r_mean)^gamma)`.

    Args:
        r: scores of positives, in the user's units, any shape.
        beta: the boundary as a share of the positive's score, where `r = r_mean`.
        gamma: its slope over the score: 1 is a fixed share of each score; the lower, the more alike are the
            boundaries of all positives.
        r_mean: running mean of `r`; it cancels out at `gamma = 1`.

    A positive that scores no better than the average item (`r <= 0`) is its own boundary.
    """
    if gamma == 1:
        return torch.minimum(r, beta * r)
    r_mean = torch.clamp(torch.as_tensor(r_mean, dtype=r.dtype, device=r.device), min=_TINY)
    share = beta * r_mean * (r.clamp_min(_TINY) / r_mean) ** gamma
    return torch.minimum(r, share)


def transition_angle(r: torch.Tensor, b: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Angle `phi*` in `[0, pi / 2]` at which `r cos(phi) + b sin(phi)` falls to `z <= r`.

    With `R = sqrt(r^2 + b^2)` and `delta = atan2(b, r)` the score is `R cos(phi - delta)`, whose falling
    crossing is `phi* = delta + arccos(z / R)`. Where `b <= z <= r` it lies in the interval. A
    noise item with `b > z` is itself harder than the boundary: the angle is `pi / 2`, the item as it is.
    """
    R = torch.hypot(r, b).clamp_min(_TINY)
    phi = torch.atan2(b, r) + torch.arccos((z / R).clamp(-1.0, 1.0))
    phi = torch.where(b > z, torch.full_like(phi, math.pi / 2), phi)
    return phi.clamp(0.0, math.pi / 2)


def search_angle(
    score_at: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, z: torch.Tensor
) -> torch.Tensor:
    """`transition_angle` for a score that is a network: finds the angle by bisection.

    Args:
        score_at: angles -> scores of the diffused positive there, in the user's units, all of one shape. The
            score at angle 0 must be at least `z`. If it falls to `z` more than once, bisection finds one of
            the crossings.
        b: scores of the noise items, which are those at `pi / 2`.
        z: the boundary.
    """
    low, high = torch.zeros_like(b), torch.full_like(b, math.pi / 2)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_positive = score_at(middle) > z
        low, high = torch.where(is_positive, middle, low), torch.where(is_positive, high, middle)
    return torch.where(b > z, torch.full_like(b, math.pi / 2), (low + high) / 2)
