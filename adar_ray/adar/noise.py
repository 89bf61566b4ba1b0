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

from adar_ray.rng import RowRng
from adar_ray.samplers.base import SamplingContext


class Pool(NamedTuple):
    """Vectors, and the items that they are; None if they are not items."""

    vector_PD: torch.Tensor
    item_P: torch.Tensor | None


def catalog_noise(context: SamplingContext, n: int, rng: RowRng) -> Pool:
    """Random items.

    Their mean and covariance are the catalog's in expectation, so that nothing needs whitening, and the
    gradient of a negative reaches a real item.
    """
    item_P = rng.shared_integers(context.n_items, n)
    return Pool(context.vectors(item_P), item_P)


@torch.no_grad()
def isotropic_noise(context: SamplingContext, n: int, rng: RowRng) -> Pool:
    """Gaussian vectors of mean 0 and variance 1 in every dimension, whatever the catalog looks like.

    This is the forward process as the paper's text describes it. Each vector is followed by its opposite, so
    that their mean is 0.
    """
    like = context.vectors(torch.zeros(1, dtype=torch.int64, device=rng.row_B.device))
    normal_HD = rng.shared_normals((n + 1) // 2, like.shape[-1]).to(like.dtype)
    return Pool(torch.stack([normal_HD, -normal_HD], 1).flatten(0, 1)[:n], None)


NOISES: dict[str, Callable[[SamplingContext, int, RowRng], Pool]] = {
    "catalog": catalog_noise,
    "isotropic": isotropic_noise,
}
