"""What a positive is diffused into, and what the sampler makes of it."""

import pytest
import torch

from adar_ray.adar import AdarSampler, AdarSettings, SamplingContext, dot_score
from adar_ray.adar.noise import NOISES, catalog_noise, isotropic_noise
from adar_ray.rng import RowRng

ITEMS, DIM = 4000, 6


def catalog(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Skewed and far from the origin, as learned items are."""
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(DIM, DIM, generator=draw, dtype=torch.float64)
    return (torch.randn(ITEMS, DIM, generator=draw, dtype=torch.float64).exp() @ mix + 3).to(dtype)


def items_of(table_ID: torch.Tensor) -> SamplingContext:
    return SamplingContext(lambda item: table_ID[item], len(table_ID))


def key(n: int, rows: int = 4) -> RowRng:
    return RowRng(torch.arange(rows), 7, n)


def test_the_catalogs_noise_is_its_items():
    table = catalog()
    pool_PD, pool_P = catalog_noise(items_of(table), 64, key(0))
    assert torch.equal(pool_PD, table[pool_P])
    assert pool_P.unique().numel() > 55


def test_isotropic_noise_is_standard_normal_whatever_the_catalog():
    pool = torch.cat([isotropic_noise(items_of(catalog()), 512, key(n))[0] for n in range(100)])
    assert pool.mean(0).abs().max() < 1e-12  # every vector comes with its opposite
    assert (pool.T.cov() - torch.eye(DIM, dtype=torch.float64)).abs().max() < 0.02
    fourth = (pool**4).mean()
    assert fourth == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_source_gives_the_same_pool_to_every_worker(name, dtype):
    """Shared draws do not depend on the rows that a worker holds."""
    items = items_of(catalog(dtype))
    pools = [
        NOISES[name](items, 33, RowRng(row_B, 1, 2, 3))[0] for row_B in (torch.arange(4), torch.tensor([9]))
    ]
    assert torch.equal(*pools)
    assert pools[0].shape == (33, DIM)
    assert pools[0].isfinite().all()


@pytest.mark.parametrize("name", NOISES)
def test_a_negative_meets_the_boundary_whatever_the_noise(name):
    """By the score itself: beta of the positive's, in the pool's units, wherever the noise lies below."""
    table = catalog()
    draw = torch.Generator().manual_seed(1)
    user_BD = torch.randn(40, DIM, generator=draw, dtype=torch.float64)
    positive_BD = table[:40] + 4 * user_BD
    sampler = AdarSampler(AdarSettings(beta=0.7, candidates=1, noise=name)).double()
    negatives = sampler(user_BD, positive_BD, items_of(table), key(0, rows=40))
    pool_PD, _ = NOISES[name](items_of(table), 256, key(0, rows=40))
    score_BP = user_BD @ pool_PD.T
    mean_B1, spread_B1 = score_BP.mean(1, keepdim=True), score_BP.std(1, correction=0, keepdim=True)
    r_B1 = ((user_BD * positive_BD).sum(1, keepdim=True) - mean_B1) / spread_B1
    score_BK = (dot_score(user_BD, negatives.vector_BKD) - mean_B1) / spread_B1
    crossed = negatives.timestep_BK < 1
    assert crossed.double().mean() > 0.8
    difference = (score_BK - 0.7 * r_B1)[crossed & (r_B1 > 0)]
    assert difference.abs().max() < 1e-9
