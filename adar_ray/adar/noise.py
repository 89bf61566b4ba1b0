"""What a positive is diffused into.

A source fills the pool of noise vectors that a batch shares. All that follows is the same for every source:
the user's units come from the scores of the pool, and a negative's noise is the hardest of M candidates in
it.

Legend: P vectors of the pool, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from adar_ray.rng import RowRng
from adar_ray.samplers.base import SamplingContext


class Pool(NamedTuple):
    """Vectors, and the items that they are; None if they are not items."""

    vector_PD: torch.Tensor
    item_P: torch.Tensor | None


class CatalogNoise(nn.Module):
    """Random items.

    They have the catalog's mean and covariance exactly, so that nothing needs whitening, and the gradient
    of a negative reaches a real item.
    """

    def forward(self, context: SamplingContext, n: int, rng: RowRng) -> Pool:
        item_P = rng.shared_integers(context.n_items, n)
        return Pool(context.vectors(item_P), item_P)


class GaussianNoise(nn.Module):
    """Gaussian vectors with the catalog's mean and covariance: `mu + L z`, with `L L' = Sigma`.

    They match the catalog to second order, but the gradient of a negative reaches no item. The moments are
    running means over random items of each batch, updated in training mode only.

    Args:
        dim: D.
        full: use the whole covariance instead of its diagonal.
        momentum: of the running moments.
    """

    batches: torch.Tensor
    mean_D: torch.Tensor
    covariance_DD: torch.Tensor

    def __init__(self, dim: int, full: bool, momentum: float = 0.9) -> None:
        super().__init__()
        self.full, self.momentum = full, momentum
        self.register_buffer("batches", torch.tensor(0.0))
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("covariance_DD", torch.zeros(dim, dim))

    @torch.no_grad()
    def forward(self, context: SamplingContext, n: int, rng: RowRng) -> Pool:
        if self.training or not self.batches:
            self._see(context.vectors(rng.shared_integers(context.n_items, n)))
        if self.full:
            # The covariance of a few items is singular: a ridge makes it invertible.
            ridge_D = (1e-6 * self.covariance_DD.diagonal().mean() + 1e-12).expand_as(self.mean_D)
            root_DD = torch.linalg.cholesky(self.covariance_DD + ridge_D.diag())
        else:
            root_DD = self.covariance_DD.diagonal().clamp_min(0).sqrt().diag()
        normal_PD = _mirrored_normals(rng, n, len(self.mean_D), self.mean_D)
        return Pool(self.mean_D + normal_PD @ root_DD.T, None)

    def _see(self, vector_PD: torch.Tensor) -> None:
        vector_PD = vector_PD.to(self.mean_D.dtype)
        mean_D = vector_PD.mean(0)
        off_PD = vector_PD - mean_D
        # The first batch counts in full, later ones with the momentum's share.
        weight = max(1 - self.momentum, 1 / (1 + float(self.batches)))
        self.batches += 1
        self.covariance_DD.lerp_(off_PD.T @ off_PD / max(len(off_PD) - 1, 1), weight)
        self.mean_D.lerp_(mean_D, weight)


class IsotropicNoise(nn.Module):
    """Gaussian vectors of mean 0 and variance 1 in every dimension, whatever the catalog looks like.

    This is the forward process as the paper's text describes it.
    """

    @torch.no_grad()
    def forward(self, context: SamplingContext, n: int, rng: RowRng) -> Pool:
        like = context.vectors(torch.zeros(1, dtype=torch.int64, device=rng.row_B.device))
        return Pool(_mirrored_normals(rng, n, like.shape[-1], like), None)


def _mirrored_normals(rng: RowRng, n: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    """`[n, dim]` standard normal vectors, each followed by its opposite: their mean is exactly 0."""
    normal_HD = rng.shared_normals((n + 1) // 2, dim).to(like.dtype)
    return torch.stack([normal_HD, -normal_HD], 1).flatten(0, 1)[:n]


def _known(dim: int | None) -> int:
    if dim is None:
        raise ValueError(
            "Gaussian noise needs the dimension of item representations: AdarSampler(settings, dim)"
        )
    return dim


NOISES: dict[str, Callable[[int | None], nn.Module]] = {
    "catalog": lambda dim: CatalogNoise(),
    "gaussian": lambda dim: GaussianNoise(_known(dim), full=True),
    "gaussian_diagonal": lambda dim: GaussianNoise(_known(dim), full=False),
    "isotropic": lambda dim: IsotropicNoise(),
}
