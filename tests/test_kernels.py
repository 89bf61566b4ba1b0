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


@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
@pytest.mark.parametrize("least", [0.0, 0.4])
def test_positives_stop_at_the_transition_point_of_the_closed_form(schedule, least):
    rows, pool, K, steps = 400, 20, 3, Schedule(schedule, 200)
    scale = 1e-7  # at any, the angles are the same
    score_BP, positive_B = scale * numbers(rows, pool), scale * numbers(rows, seed=1).abs() * 2
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(2))
    mean_B, deviation_B = score_BP.mean(1), score_BP.std(1, correction=0)
    r_B = (positive_B - mean_B) / deviation_B
    z_B = torch.minimum(r_B, numbers(rows, seed=3))
    raw_BK = score_BP.gather(1, noise_BK)
    share_BK, cos_BK, sin_BK, diffused_BK = torch.empty(4, rows, K)
    given = (raw_BK, mean_B, positive_B, z_B * deviation_B)
    tables = (steps.cos_between_T, steps.first_R, steps.cos_T, steps.sin_T)
    found = (share_BK, cos_BK, sin_BK, diffused_BK)
    arrays = (tensor.numpy() for tensor in (*tables, *found))
    kernels.stop_at_boundary(*(tensor.numpy() for tensor in given), math.cos(least), *arrays)
    timestep_BK = (share_BK * 200).round().long()
    torch.testing.assert_close(timestep_BK / 200, share_BK)

    b_BK = (raw_BK.double() - mean_B[:, None]) / deviation_B[:, None]
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
    torch.testing.assert_close(diffused_BK.double(), on_the_way_BK, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("T", [1, 2, 30, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "sigmoid"])
def test_a_search_for_a_cosine_begins_at_or_just_before_its_step(schedule, T):
    steps = Schedule(schedule, T)
    angle_N = torch.linspace(0, math.pi / 2, 20_001, dtype=torch.float64)
    wanted_N = steps.timestep(angle_N)
    begin_N = steps.first_R[(angle_N.cos() * (len(steps.first_R) - 1)).long()]
    assert (begin_N <= wanted_N).all()
    assert (wanted_N - begin_N)[angle_N > 0.1].double().mean() < 1


def test_scores_that_are_no_numbers_are_diffused_to_the_end():
    steps = Schedule("cosine", 10)
    score_BK = torch.tensor([[math.nan], [math.inf], [-math.inf]])
    answers = torch.empty(4, 3, 1)
    rows = (torch.zeros(3), torch.full((3,), math.inf), torch.full((3,), math.inf))
    tables = (steps.cos_between_T, steps.first_R, steps.cos_T, steps.sin_T)
    arrays = (tensor.numpy() for tensor in (*tables, *answers))
    kernels.stop_at_boundary(*(x.numpy() for x in (score_BK, *rows)), 1.0, *arrays)
    assert answers[0].tolist() == [[1]] * 3


def test_gradients_of_diffused_scores_are_those_of_autograd():
    rows, pool, K, dim = 6, 5, 3, 8
    user_BD, positive_BD, pool_PD = numbers(rows, dim), numbers(rows, dim, seed=1), numbers(pool, dim, seed=2)
    noise_BK = torch.randint(pool, (rows, K), generator=torch.Generator().manual_seed(3))
    angle_BK, weight_BK = numbers(rows, K, seed=4).abs() % (math.pi / 2), numbers(rows, K, seed=5)
    mean_D, cos_BK, sin_BK = pool_PD.mean(0), angle_BK.cos(), angle_BK.sin()
    ours = torch.empty(rows, dim), torch.empty(rows, dim), torch.zeros(pool, dim)
    row_B = torch.arange(rows)
    tables = user_BD, row_B, positive_BD, row_B, pool_PD
    tensors = (*tables, mean_D, noise_BK, cos_BK, sin_BK, weight_BK, *ours)
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


def test_timesteps_that_are_no_numbers_are_counted_all_the_same():
    timestep_NK = torch.tensor([[math.nan, 1.0]])
    sums = StepStatistics.of(
        *numbers(3, 1), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), timestep_NK, 1.0
    )
    assert sums[len(StepStatistics.FIELDS) :].tolist() == [1.0, *[0.0] * 8, 1.0]
