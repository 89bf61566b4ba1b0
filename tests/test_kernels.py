"""Compiled loops against plain torch, numpy and autograd; look-ups are tested with `UserItems`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adar_ray import kernels
from adar_ray.adar.schedule import Schedule
from adar_ray.adar.transition import transition_angle
from adar_ray.models.protocol import dot_score
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
        kernels.adam_rows(*arrays, 0.03, 0.9, 0.999, 1e-8, step)
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


@pytest.mark.parametrize("has_bits", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_the_hardest_of_each_window_is_found_by_hand(masks, has_bits):
    rows, pool, items, K, M = 12, 10, 30, 2, 4
    score_BP, draw = numbers(rows, pool), np.random.default_rng(0)
    item_P = draw.integers(0, items, pool)
    item_P[7] = item_P[2]  # one that is there twice
    place_I = np.full(items, -1, np.int32)
    place_I[item_P] = np.arange(pool)
    offset_B, width_B = draw.integers(0, pool, rows), draw.integers(1, M + 1, rows)
    seen = draw.random((rows, items)) < 0.5
    seen[3] = True
    user, item = seen.nonzero()
    start = np.concatenate([[0], np.cumsum(seen.sum(1))])
    found = np.empty((rows, K), bool), np.empty(rows, np.float32), np.empty(rows, np.float32)
    noise = np.empty((rows, K), np.int64)
    kernels.hardest_of_window(
        score_BP.numpy(),
        item_P if masks else np.empty(0, np.int64),
        place_I,
        start,
        user * items + item,
        np.packbits(seen, bitorder="little") if has_bits else np.empty(0, np.uint8),
        items,
        np.arange(rows),
        offset_B,
        np.stack([width_B, np.full(rows, M)]),
        noise,
        *found,
    )
    for row in range(rows):
        for k in range(K):
            window = [(offset_B[row] + k * M + member) % pool for member in range(width_B[row])]
            unseen = [at for at in window if not (masks and seen[row, item_P[at]])]
            assert found[0][row, k] == bool(unseen)
            assert not unseen or noise[row, k] == max(unseen, key=lambda at: score_BP[row, at].item())
    assert found[0].all() == (not masks)
    np.testing.assert_allclose(found[1], score_BP.double().mean(1), atol=1e-6)
    np.testing.assert_allclose(found[2], score_BP.double().std(1, correction=0), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("least", [0.0, 0.4])
def test_positives_stop_at_the_transition_point_of_the_closed_form(schedule, least):
    rows, pool, K, steps = 400, 20, 3, Schedule(schedule, 200)
    score_BP, positive_B = numbers(rows, pool), numbers(rows, seed=1).abs() * 2
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(2))
    mean_B, deviation_B = score_BP.mean(1), score_BP.std(1, correction=0)
    r_B = (positive_B - mean_B) / deviation_B
    z_B = torch.minimum(r_B, numbers(rows, seed=3))
    timestep_BK = torch.empty(rows, K, dtype=torch.int64)
    cos_BK, sin_BK, diffused_BK = torch.empty(3, rows, K)
    given = (score_BP, noise_BK, mean_B, deviation_B, positive_B, z_B)
    found = (steps.cos_between_T, steps.cos_T, steps.sin_T, timestep_BK, cos_BK, sin_BK, diffused_BK)
    kernels.stop_at_boundary(*(x.numpy() for x in given), math.cos(least), *(x.numpy() for x in found))

    raw_BK = score_BP.double().gather(1, noise_BK)
    b_BK = (raw_BK - mean_B[:, None]) / deviation_B[:, None]
    r_BK, z_BK = (x.double()[:, None].expand_as(b_BK) for x in (r_B, z_B))
    expected_BK = steps.timestep(transition_angle(r_BK, b_BK, z_BK).clamp_min(least))
    assert (timestep_BK - expected_BK).abs().max() <= 1  # where rounding decides between two
    assert (timestep_BK == expected_BK).double().mean() > 0.98
    assert len(timestep_BK.unique()) > 50
    angle_BK = steps.angle(timestep_BK)
    torch.testing.assert_close(cos_BK.double(), angle_BK.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin_BK.double(), angle_BK.sin(), rtol=0, atol=1e-6)
    mean_B1, off_B1 = mean_B[:, None], (positive_B - mean_B)[:, None]
    on_the_way_BK = mean_B1 + angle_BK.cos() * off_B1 + angle_BK.sin() * (raw_BK - mean_B1)
    torch.testing.assert_close(diffused_BK.double(), on_the_way_BK, rtol=0, atol=1e-5)


def test_gradients_of_diffused_scores_are_those_of_autograd():
    rows, pool, K, dim = 6, 5, 3, 8
    user_BD, positive_BD, pool_PD = numbers(rows, dim), numbers(rows, dim, seed=1), numbers(pool, dim, seed=2)
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(3))
    angle_BK, weight_BK = numbers(rows, K, seed=4).abs() % (math.pi / 2), numbers(rows, K, seed=5)
    mean_D, cos_BK, sin_BK = pool_PD.mean(0), angle_BK.cos(), angle_BK.sin()
    ours = torch.empty(rows, dim), torch.empty(rows, dim), torch.zeros(pool, dim)
    tensors = (user_BD, positive_BD, pool_PD, mean_D, noise_BK, cos_BK, sin_BK, weight_BK, *ours)
    kernels.diffused_backward(*(tensor.numpy() for tensor in tensors))
    leaves = [tensor.double().requires_grad_() for tensor in (user_BD, positive_BD, pool_PD)]
    user, positive, member = leaves
    mixed_BKD = (
        mean_D
        + cos_BK[..., None] * (positive[:, None] - mean_D)
        + sin_BK[..., None] * (member[noise_BK] - mean_D)
    )
    ((user[:, None] * mixed_BKD).sum(2) * weight_BK).sum().backward()
    for gradient, leaf in zip(ours, leaves, strict=True):
        torch.testing.assert_close(gradient.double(), leaf.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_timesteps", [False, True])
def test_the_statistics_of_a_step_are_those_of_plain_torch(has_timesteps):
    positive_N, negative_NK = numbers(30), numbers(30, 4, seed=1)
    mask_NK = numbers(30, 4, seed=2) > -1
    timestep_NK = numbers(30, 4, seed=3).abs().clamp_max(1) if has_timesteps else None
    given = (numbers(30, seed=4), numbers(30, seed=5), positive_N, negative_NK, mask_NK, timestep_NK, 0.7)
    wide = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    torch.testing.assert_close(StepStatistics.of(*given), StepStatistics.of(*wide), rtol=1e-6, atol=1e-6)


def test_timesteps_that_are_no_numbers_are_counted_all_the_same():
    timestep_NK = torch.tensor([[math.nan, 1.0]])
    sums = StepStatistics.of(
        *numbers(3, 1), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), timestep_NK, 1.0
    )
    assert sums[len(StepStatistics.FIELDS) :].tolist() == [1.0, *[0.0] * 8, 1.0]
