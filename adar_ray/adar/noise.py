"""What a positive is diffused into.

A source fills the pool of noise vectors that a batch shares. Everything after it is the same for all: the
user's units are taken from the scores of the pool, the noise of a negative is the hardest of M in it.

Legend: P vectors of the pool, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import Items

# Vectors `[P, D]`, and the items that they are, `[P]`; None where they are no items.
Pool = tuple[torch.Tensor, torch.Tensor | None]


class CatalogNoise(nn.Module):
    """Random items.

    They have the catalog's mean and covariance exactly, so that nothing needs whitening, and the gradient
    of a negative reaches a real item.
    """

    def forward(self, items: Items, n: int, rng: RowRng) -> Pool:
        item_P = rng.shared_integers(items.n_items, n)
        return items.vectors(item_P), item_P


class GaussianNoise(nn.Module):
    """Gaussian vectors with the catalog's mean and covariance: `mu + L z`, with `L L' = Sigma`.

    The same as the catalog to second order; the gradient of a negative reaches no item. The moments are
    running means over random items of each batch, in training mode alone.

    Args:
        dim: D.
        full: the whole covariance, or its diagonal alone.
        momentum: of the running moments.
    """

    def __init__(self, dim: int, full: bool, momentum: float = 0.9) -> None:
        super().__init__()
        self.full, self.momentum = full, momentum
        self.register_buffer("batches", torch.tensor(0.0))
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("covariance_DD", torch.zeros(dim, dim))

    @torch.no_grad()
    def forward(self, items: Items, n: int, rng: RowRng) -> Pool:
        if self.training or not self.batches:
            self._see(items.vectors(rng.shared_integers(items.n_items, n)))
        if self.full:
            # A covariance of few items is singular: a little is added to all of its axes.
            ridge_D = (1e-6 * self.covariance_DD.diagonal().mean() + 1e-12).expand_as(self.mean_D)
            root_DD = torch.linalg.cholesky(self.covariance_DD + ridge_D.diag())
        else:
            root_DD = self.covariance_DD.diagonal().clamp_min(0).sqrt().diag()
        return self.mean_D + _mirrored_normals(rng, n, len(self.mean_D), self.mean_D) @ root_DD.T, None

    def _see(self, vector_PD: torch.Tensor) -> None:
        vector_PD = vector_PD.to(self.mean_D.dtype)
        mean_D = vector_PD.mean(0)
        off_PD = vector_PD - mean_D
        # The first batch counts fully, later ones for what is new in them.
        weight = max(1 - self.momentum, 1 / (1 + float(self.batches)))
        self.batches += 1
        self.covariance_DD.lerp_(off_PD.T @ off_PD / max(len(off_PD) - 1, 1), weight)
        self.mean_D.lerp_(mean_D, weight)


class IsotropicNoise(nn.Module):
    """Gaussian vectors of mean 0 and variance 1 in every dimension: the forward process as the paper's text
    has it, whatever the catalog looks like."""

    @torch.no_grad()
    def forward(self, items: Items, n: int, rng: RowRng) -> Pool:
        like = items.vectors(torch.zeros(1, dtype=torch.int64, device=rng.row_B.device))
        return _mirrored_normals(rng, n, like.shape[-1], like), None


def _mirrored_normals(rng: RowRng, n: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    """`[n, dim]` standard normal vectors, each followed by its opposite: their mean is exactly 0."""
    normal_HD = rng.shared_normals((n + 1) // 2, dim).to(like.dtype)
    return torch.stack([normal_HD, -normal_HD], 1).flatten(0, 1)[:n]


NOISES: dict[str, Callable[[int | None], nn.Module]] = {
    "catalog": lambda dim: CatalogNoise(),
    "gaussian": lambda dim: GaussianNoise(dim, full=True),
    "gaussian_diagonal": lambda dim: GaussianNoise(dim, full=False),
    "isotropic": lambda dim: IsotropicNoise(),
}
