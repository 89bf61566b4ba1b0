"""Compiled loops against plain torch, numpy and autograd; look-ups are tested with `UserItems`."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from adar_ray import kernels
from adar_ray.adar.transition import transition_angle
from adar_ray.models.protocol import dot_score
from adar_ray.samplers.base import Source
from adar_ray.training.step import StepStatistics


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_compiled_loops_are_for_single_precision_and_whole_numbers_on_the_cpu():
    ids, vectors = torch.arange(3), numbers(3)
    assert kernels.runs_compiled(ids, vectors)
    for other in (vectors.double(), vectors.half(), ids.int(), vectors.to("meta")):
        assert not kernels.runs_compiled(ids, other)


def test_adam_on_rows_is_torchs_adam_on_sparse_gradients():
    weight, mean, square = numbers(6, 4), torch.zeros(6, 4), torch.zeros(6, 4)
    parameter = torch.nn.Parameter(weight.double())
    theirs = torch.optim.SparseAdam([parameter], lr=0.03)
    for step in range(1, 6):
        row_R = torch.tensor([step, 0, step - 1]).unique()
        gradient_RD = numbers(len(row_R), 4, seed=step)
        parameter.grad = torch.sparse_coo_tensor(
            row_R[None], gradient_RD.double(), (6, 4), check_invariants=True
        )
        theirs.step()
        arrays = (tensor.numpy() for tensor in (weight, mean, square, row_R, row_R, gradient_RD))
        kernels.adam_rows(*arrays, 0.03, 0.9, 0.999, 1e-8, step, 0.0)
        torch.testing.assert_close(weight.double(), parameter.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "K", "dim"), [(0, 3, 4), (5, 0, 4), (1, 1, 1), (7, 3, 33)])
def test_dot_products_and_their_gradients(rows, K, dim):
    user_BD, item_BKD, weight_BK = numbers(rows, dim), numbers(rows, K, dim, seed=1), numbers(rows, K, seed=2)
    leaves = [tensor.clone().requires_grad_() for tensor in (user_BD, item_BKD)]
    score_BK = dot_score(*leaves)
    (score_BK * weight_BK).sum().backward()
    doubles = [tensor.double().requires_grad_() for tensor in (user_BD, item_BKD)]
    expected_BK = torch.einsum("bd,bkd->bk", *doubles)
    (expected_BK * weight_BK).sum().backward()
    torch.testing.assert_close(score_BK.double(), expected_BK, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(leaves, doubles, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_dot_products_of_vectors_that_lie_apart_in_memory():
    user_BD, item_BKD = numbers(8, 10)[::2, ::2], numbers(3, 4, 5, seed=1).transpose(0, 1)
    torch.testing.assert_close(dot_score(user_BD, item_BKD), torch.einsum("bd,bkd->bk", user_BD, item_BKD))


@pytest.mark.parametrize(
    ("user", "item"),
    [
        ((1, 16), (8, 3, 16)),
        ((4, 16), (8, 3, 16)),
        ((4, 16), (4, 3, 20)),
        ((4, 20), (1, 3, 16)),
        ((4, 16), (4, 16)),
        ((16,), (1, 3, 16)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dot_products_of_shapes_that_do_not_fit_are_refused(user, item, dtype):
    says = f"user_BD and item_BKD have the shapes {list(user)} and {list(item)}; give [B, D] and [B, K, D]"
    with pytest.raises(ValueError, match=re.escape(says)):
        dot_score(numbers(*user).to(dtype), numbers(*item).to(dtype))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("pool", "M"), [(10, 4), (10, 7), (3, 8), (1, 1)])
def test_the_hardest_of_each_window_is_found_by_hand(masks, pool, M):
    rows, K, dim = 12, 3, 5
    user_BD, positive_BD, pool_PD = numbers(rows, dim), numbers(rows, dim, seed=1), numbers(pool, dim, seed=2)
    mean_D, draw = pool_PD.mean(0), np.random.default_rng(0)
    offset_B, width_B = draw.integers(0, pool, rows), draw.integers(1, M + 1, rows)
    seen_BP = draw.random((rows, pool if masks else 0)) < 0.5
    seen_BP[3] = True
    noise_BK, found_BK = np.empty((rows, K), np.int64), np.empty((rows, K), bool)
    scores = np.empty((rows, K), np.float32), np.empty(rows, np.float32), np.empty(rows, np.float32)
    vectors = (tensor.numpy() for tensor in (user_BD, positive_BD, pool_PD, mean_D))
    user, positive, *shared = vectors
    row_B = np.arange(rows)
    tables = user, row_B, positive, row_B, *shared
    kernels.hardest_of_windows(*tables, seen_BP, offset_B, width_B, M, noise_BK, found_BK, *scores)
    score_BP = (user_BD.double() @ pool_PD.T.double()).numpy()
    for row in range(rows):
        for k in range(K):
            window = [(offset_B[row] + k * M + member) % pool for member in range(width_B[row])]
            unseen = [at for at in window if not (masks and seen_BP[row, at])]
            assert found_BK[row, k] == bool(unseen)
            assert noise_BK[row, k] == max(unseen or window[:1], key=lambda at: score_BP[row, at])
    assert found_BK.all() == (not masks)
    np.testing.assert_allclose(scores[0], np.take_along_axis(score_BP, noise_BK, 1), atol=1e-5)
    np.testing.assert_allclose(scores[1], score_BP.mean(1), atol=1e-5)
    np.testing.assert_allclose(scores[2], (user_BD * positive_BD).double().sum(1), atol=1e-5)


def stopped(*scores: torch.Tensor) -> torch.Tensor:
    """Timesteps, cosines, sines and scores, `[4, B, K]`, where positives of these scores stop."""
    answers = torch.empty(4, *scores[0].shape)
    kernels.stop_at_boundary(*(tensor.numpy() for tensor in (*scores, *answers)))
    return answers


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
def test_positives_stop_at_the_transition_point_of_the_closed_form(scale):
    rows, pool, K = 400, 20, 3
    score_BP, positive_B = scale * numbers(rows, pool), scale * numbers(rows, seed=1).abs() * 2
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(2))
    mean_B = score_BP.mean(1)
    r_B = positive_B - mean_B
    z_B = torch.minimum(r_B, scale * numbers(rows, seed=3))
    raw_BK = score_BP.gather(1, noise_BK)
    timestep_BK, cos_BK, sin_BK, diffused_BK = stopped(raw_BK, mean_B, positive_B, z_B).double()

    b_BK = (raw_BK - mean_B[:, None]).double()
    r_BK, z_BK = (x.double()[:, None].expand_as(b_BK) for x in (r_B, z_B))
    angle_BK = transition_angle(r_BK / scale, b_BK / scale, z_BK / scale)
    torch.testing.assert_close(timestep_BK * math.pi / 2, angle_BK, rtol=0, atol=1e-6)
    torch.testing.assert_close(cos_BK, angle_BK.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin_BK, angle_BK.sin(), rtol=0, atol=1e-6)
    crosses_BK = b_BK <= z_BK
    assert crosses_BK.double().mean() > 0.2
    expected_BK = mean_B[:, None] + torch.where(crosses_BK, z_BK, b_BK)
    torch.testing.assert_close(diffused_BK, expected_BK, rtol=0, atol=1e-5 * scale)


def test_where_positives_stop_by_hand():
    """r, b, z above a mean of 1, and the angle in degrees."""
    cases = torch.tensor(
        [
            [2, 0, 1, 60],  # cos phi = z / r
            [2, -2, 0, 45],
            [1, 1, 1, 90],  # the score rises, and is back at z with the noise
            [2, 1, 1, 90],
            [2, 1.5, 1, 90],  # the noise is beyond the boundary
            [2, -1, 2, 0],
            [-1, -1, -1, 0],
            [-1, -2, -1, 0],
            [0, 0, 0, 90],
            [1, -1e-30, 1, 0],
        ]
    )
    r_B, b_B, z_B, degrees_B = cases.T.contiguous()
    timestep_BK, cos_BK, sin_BK, _ = stopped(b_B[:, None] + 1, torch.ones_like(r_B), r_B + 1, z_B)
    assert (timestep_BK[:, 0] * 90).tolist() == pytest.approx(degrees_B.tolist(), abs=1e-5)
    assert ((timestep_BK == 1)[:, 0] == (degrees_B == 90)).all()
    torch.testing.assert_close(cos_BK.square() + sin_BK.square(), torch.ones_like(cos_BK))


def test_scores_that_are_no_numbers_are_diffused_to_the_end():
    score_BK = torch.tensor([[math.nan], [math.inf], [-math.inf]])
    infinite_B = torch.full((3,), math.inf)
    assert stopped(score_BK, torch.zeros(3), infinite_B, infinite_B)[0].tolist() == [[1]] * 3


def test_gradients_of_diffused_scores_are_those_of_autograd():
    rows, pool, K, dim = 6, 5, 3, 8
    user_BD, positive_BD, pool_PD = numbers(rows, dim), numbers(rows, dim, seed=1), numbers(pool, dim, seed=2)
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(3))
    angle_BK, weight_BK = numbers(rows, K, seed=4).abs() % (math.pi / 2), numbers(rows, K, seed=5)
    mean_D, cos_BK, sin_BK = pool_PD.mean(0), angle_BK.cos(), angle_BK.sin()
    ours = torch.empty(rows, dim), torch.zeros(pool, dim)
    row_B = torch.arange(rows)
    tables = user_BD, row_B, positive_BD, row_B, pool_PD
    tensors = (*tables, mean_D, noise_BK, cos_BK, sin_BK, weight_BK, *ours)
    kernels.diffused_backward(*(tensor.numpy() for tensor in tensors))
    leaves = [tensor.double().requires_grad_() for tensor in (user_BD, pool_PD)]
    user, member = leaves
    mixed_BKD = (
        mean_D
        + cos_BK[..., None] * (positive_BD[:, None] - mean_D)
        + sin_BK[..., None] * (member[noise_BK] - mean_D)
    )
    ((user[:, None] * mixed_BKD).sum(2) * weight_BK).sum().backward()
    for gradient, leaf in zip(ours, leaves, strict=True):
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-5, atol=1e-5)


def test_means_of_values_of_a_source_and_their_gradients_are_those_of_autograd():
    value_P, weight_B = numbers(6).requires_grad_(), numbers(40, seed=1)
    at_BK = torch.randint(6, (40, 3), generator=torch.Generator().manual_seed(2))
    plain_P = value_P.detach().double().requires_grad_()
    ours_B, plain_B = (Source(at_BK, at_BK, at_BK).means(value) for value in (value_P, plain_P))
    torch.testing.assert_close(ours_B.double(), plain_B)
    for mean_B in (ours_B, plain_B):
        (mean_B * weight_B).sum().backward()
    torch.testing.assert_close(value_P.grad.double(), plain_P.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_timesteps", [False, True])
def test_the_statistics_of_a_step_are_those_of_plain_torch(has_timesteps):
    positive_N, negative_NK = numbers(30), numbers(30, 4, seed=1)
    mask_NK = numbers(30, 4, seed=2) > -1
    timestep_NK = numbers(30, 4, seed=3).abs().clamp_max(1) if has_timesteps else None
    given = (numbers(30, seed=4), numbers(30, seed=5), positive_N, negative_NK, mask_NK, timestep_NK, 0.7)
    wide = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    torch.testing.assert_close(StepStatistics.of(*given), StepStatistics.of(*wide), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled and plain
def test_the_statistics_of_a_step_by_hand(dtype):
    """Of two rows with two negatives, one of them masked."""
    positive_N, negative_NK = torch.tensor([0.0, 1.0], dtype=dtype), torch.tensor([[0.0, 9.0], [1.0, 1.0]])
    mask_NK = torch.tensor([[True, False], [True, True]])
    timestep_NK = torch.tensor([[0.25, 1.0], [0.9995, 1.0]], dtype=dtype)
    losses = torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([0.5, 0.25], dtype=dtype)
    sums = StepStatistics.of(*losses, positive_N, negative_NK.to(dtype), mask_NK, timestep_NK, 0.5)
    named = dict(zip(StepStatistics.FIELDS, sums.tolist(), strict=False))
    assert named == pytest.approx(
        {
            "loss": 3.0,
            "penalty": 0.75,
            "rows": 2,
            "hardness": 3 * 0.5,  # all that count score as their positive does
            "negatives": 3,
            "timesteps": 0.25 + 0.9995 + 1,
            "uncrossed": 1,
        }
    )
    assert sums[len(StepStatistics.FIELDS) :].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    loss, sampler = StepStatistics.summary(sums)
    assert loss == pytest.approx({"loss": 1.5, "penalty": 0.375})
    shares = sampler.pop("timesteps")
    assert shares == pytest.approx([0, 0, 1 / 3, 0, 0, 0, 0, 0, 0, 2 / 3])
    assert sampler == pytest.approx({"hardness": 0.5, "timestep": 2.2495 / 3, "uncrossed": 1 / 3})


def test_timesteps_that_are_no_numbers_are_counted_all_the_same():
    timestep_NK = torch.tensor([[math.nan, 1.0]])
    sums = StepStatistics.of(
        *numbers(3, 1), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), timestep_NK, 1.0
    )
    assert sums[len(StepStatistics.FIELDS) :].tolist() == [1.0, *[0.0] * 8, 1.0]
