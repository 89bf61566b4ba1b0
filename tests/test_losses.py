"""Losses against sums done by hand and against torch's own cross-entropy."""

import math
import re

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from adar_ray.config import load_config
from adar_ray.losses import bce, bpr, sampled_softmax, shares, temperature_for
from adar_ray.training.build import build_loss


def all_true(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def random_scores(rows: int = 20, negatives: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return (
        torch.randn(rows, generator=draw, dtype=torch.float64),
        torch.randn(rows, negatives, generator=draw, dtype=torch.float64),
    )


def test_bpr_by_hand():
    loss = bpr(torch.tensor([2.0, 0.0]), torch.tensor([[1.0, 2.0], [0.0, 3.0]]), all_true(2, 2))
    expected = [
        (math.log(1 + math.exp(-1)) + math.log(2)) / 2,
        (math.log(2) + math.log(1 + math.exp(3))) / 2,
    ]
    assert loss.tolist() == pytest.approx(expected, rel=1e-6)


def test_bpr_of_one_negative_is_minus_log_sigmoid_of_the_difference():
    positive, negative = random_scores(negatives=1)
    torch.testing.assert_close(
        bpr(positive, negative, all_true(20, 1)), -logsigmoid(positive - negative[:, 0])
    )


def test_bce_is_torchs_with_the_positive_against_the_mean_of_its_negatives():
    positive, negative = random_scores()
    ones, zeros = torch.ones_like(positive), torch.zeros_like(negative)
    expected = binary_cross_entropy_with_logits(positive, ones, reduction="none")
    expected += binary_cross_entropy_with_logits(negative, zeros, reduction="none").mean(1)
    torch.testing.assert_close(bce(positive, negative, all_true(20, 6)), expected)


def test_a_rows_negatives_share_its_weight_equally():
    mask = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])
    assert shares(mask).tolist() == [[0.25] * 4, [0.5, 0, 0.5, 0], [0] * 4]


def test_sampled_softmax_by_hand():
    loss = sampled_softmax(torch.tensor([1.0]), torch.tensor([[0.0, 2.0]]), all_true(1, 2), temperature=0.5)
    expected = -math.log(math.exp(2) / (math.exp(2) + math.exp(0) + math.exp(4)))
    assert loss.tolist() == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0, 3.0])
def test_sampled_softmax_is_torchs_cross_entropy(temperature):
    positive, negative = random_scores()
    logits = torch.cat([positive[:, None], negative], 1) / temperature
    expected = cross_entropy(logits, torch.zeros(20, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(sampled_softmax(positive, negative, all_true(20, 6), temperature), expected)


@pytest.mark.parametrize("masked", [0.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loss", [bpr, bce, sampled_softmax])
def test_a_masked_negative_is_as_good_as_absent(loss, masked):
    positive, negative = (score.requires_grad_() for score in random_scores())
    mask = all_true(20, 6)
    mask[:, [1, 4]] = False
    kept = loss(positive, negative[:, [0, 2, 3, 5]], all_true(20, 4))
    some = loss(positive, negative.masked_fill(~mask, masked), mask)
    torch.testing.assert_close(some, kept)
    gradients = [torch.autograd.grad(total.sum(), (positive, negative)) for total in (kept, some)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", [bpr, sampled_softmax])
def test_a_row_without_negatives_costs_nothing_and_pulls_at_nothing(loss):
    positive, negative = (score.requires_grad_() for score in random_scores(2, 3))
    mask = torch.tensor([[False] * 3, [True] * 3])
    result = loss(positive, negative, mask)
    result.sum().backward()
    assert result[0] == 0
    assert result[1] > 0
    assert positive.grad[0] == 0
    assert negative.grad[0].tolist() == [0, 0, 0]
    assert (negative.grad[1] > 0).all()


def test_log_weight_log_2_counts_a_negative_twice():
    positive, negative = random_scores()
    weight = torch.tensor([0, math.log(2), 0, 0, math.log(3), 0])
    repeated = negative[:, [0, 1, 1, 2, 3, 4, 4, 4, 5]]
    torch.testing.assert_close(
        sampled_softmax(positive, negative, all_true(20, 6), 0.2, weight),
        sampled_softmax(positive, repeated, all_true(20, 9), 0.2),
    )


@pytest.mark.parametrize("loss", [bpr, bce, sampled_softmax])
def test_gradients_are_those_of_finite_differences(loss):
    positive, negative = (score.requires_grad_() for score in random_scores(4, 3))
    mask = torch.tensor([[True, True, True], [True, False, True], [False, False, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda p, n: loss(p, n, mask), (positive, negative))


@pytest.mark.parametrize("loss", [bpr, bce, sampled_softmax])
@pytest.mark.parametrize(
    "shapes",
    [
        [[4, 1], [4, 3], [4, 3]],
        [[1], [4, 3], [4, 3]],
        [[4], [4, 3], [4, 1]],
        [[4], [4, 3], [1, 3]],
        [[4], [1, 3], [4, 3]],
        [[4], [4], [4]],
    ],
    ids=str,
)
def test_shapes_that_only_fit_by_broadcasting_are_refused(loss, shapes):
    positive, negative, mask = shapes
    says = f"have the shapes {positive}, {negative} and {mask}; give [B], [B, K] and [B, K]"
    with pytest.raises(ValueError, match=re.escape(says)):
        loss(torch.zeros(positive), torch.zeros(negative), all_true(*mask))


@pytest.mark.parametrize("loss", [bpr, sampled_softmax])
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_scores_stay_finite(loss, size):
    positive = torch.tensor([size, -size, size], requires_grad=True)
    negative = torch.tensor([[-size, size], [size, size], [size, size]], requires_grad=True)
    result = loss(positive, negative, torch.tensor([[True, False], [True, True], [True, True]]))
    result.sum().backward()
    assert result.isfinite().all()
    assert result[:2].tolist() == pytest.approx([0, 2 * size], rel=1e-3)
    assert positive.grad.isfinite().all()
    assert negative.grad.isfinite().all()


def test_a_backward_pass_twice_gives_the_same_gradient():
    positive, negative = (score.requires_grad_() for score in random_scores())
    loss = sampled_softmax(positive, negative, all_true(20, 6), 0.2, torch.full((20, 6), 0.3)).sum()
    first = torch.autograd.grad(loss, (positive, negative), retain_graph=True)
    for again, before in zip(torch.autograd.grad(loss, (positive, negative)), first, strict=True):
        assert torch.equal(again, before)


@pytest.mark.parametrize(
    ("n_items", "temperature"),
    [(1, 0.2), (12_000, 0.2), (48_000, 0.1), (90_000, 0.073), (98_000, 0.07), (10_000_000, 0.07)],
)
def test_the_temperature_falls_with_the_root_of_the_number_of_items(n_items, temperature):
    assert temperature_for(n_items) == pytest.approx(temperature, rel=1e-3)


@pytest.mark.parametrize("name", ["sampled_softmax", "cross_entropy"])
def test_a_temperature_of_auto_is_that_of_the_catalog(name):
    positive, negative = random_scores()

    def of(n_items: int, temperature: str) -> tuple[float, list[float]]:
        config = load_config(settings=[f"loss.name={name}", f"{name}.temperature={temperature}"])
        loss = build_loss(config, n_items)
        return loss.temperature, loss.function(positive, negative, all_true(20, 6), None).tolist()

    assert of(48_000, "auto") == of(48_000, "0.1") == of(10, "0.1")
    assert of(48_000, "auto") != of(12_000, "auto") == of(12_000, "0.2")
