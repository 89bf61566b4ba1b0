"""ADAR's negatives: where they lie, what they are made of, whom their gradient reaches."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import softplus

from adar_ray.adar import AdarSampler, AdarSettings, SamplingContext, dot_score
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.table import Table, TablePairs
from adar_ray.rng import RowRng

ROWS, ITEMS, DIM = 60, 500, 12


def random_vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class World:
    """Users, their positives and a catalog; remembers the pool of the last call."""

    def __init__(
        self, rows: int = ROWS, items: int = ITEMS, dim: int = DIM, score=dot_score, **known
    ) -> None:
        self.user_BD = random_vectors(rows, dim, seed=1)
        self.item_ID = random_vectors(items, dim, seed=2) + 0.3
        # Learned to some degree: a positive scores better than most items.
        self.positive_BD = self.item_ID[torch.arange(rows) % items] + 0.5 * self.user_BD
        self.items = SamplingContext(self.vectors, items, score, **known)
        self.pool_P = torch.empty(0)

    def vectors(self, item: torch.Tensor) -> torch.Tensor:
        self.pool_P = item
        return self.item_ID[item]

    def negatives(self, sampler: AdarSampler, key: int = 0):
        return sampler(
            self.user_BD, self.positive_BD, self.items, RowRng(torch.arange(len(self.user_BD)), key)
        )

    def pool_scores(self) -> torch.Tensor:
        return self.user_BD @ self.item_ID[self.pool_P].T

    def noise_items(self, sampler: AdarSampler, key: int = 0) -> list[list[set[int]]]:
        """The items that each row's negatives are made of: those that their gradient reaches."""
        self.item_ID.requires_grad_()
        vector_BKD = self.negatives(sampler, key).vector_BKD
        reached = [
            [torch.autograd.grad(vector.sum(), self.item_ID, retain_graph=True)[0] for vector in row]
            for row in vector_BKD
        ]
        self.item_ID.requires_grad_(False)
        return [[set(gradient.any(1).nonzero()[:, 0].tolist()) for gradient in row] for row in reached]


# Where the negatives lie


@pytest.mark.parametrize("beta", [0.9, 0.7, 0.5])
def test_a_negative_scores_what_the_boundary_says_wherever_the_trajectory_crosses_it(beta):
    world = World()
    negatives = world.negatives(AdarSampler(AdarSettings(beta=beta, candidates=4, negatives=3)))
    pool = world.pool_scores()
    center_B1 = pool.mean(1, keepdim=True)
    excess_B1 = (world.user_BD * world.positive_BD).sum(1, keepdim=True) - center_B1
    boundary_B1 = center_B1 + torch.minimum(excess_B1, beta * excess_B1)
    score_BK = dot_score(world.user_BD, negatives.vector_BKD)

    at_the_end = negatives.timestep_BK == 1
    assert (~at_the_end).sum() > 60
    assert ((score_BK - boundary_B1).abs() <= 1e-9)[~at_the_end].all()
    assert (score_BK >= boundary_B1 - 1e-9)[at_the_end].all()


def test_with_another_gamma_the_boundary_follows_the_running_mean():
    world = World()
    sampler = AdarSampler(AdarSettings(beta=0.8, gamma=0.5, candidates=1, negatives=2))
    negatives = world.negatives(sampler)
    pool = world.pool_scores()
    center_B1, spread_B1 = pool.mean(1, keepdim=True), pool.std(1, correction=0, keepdim=True)
    r_B1 = ((world.user_BD * world.positive_BD).sum(1, keepdim=True) - center_B1) / spread_B1
    z_B1 = torch.minimum(r_B1, 0.8 * (r_B1.clamp_min(1e-9) * r_B1.mean()).sqrt())
    t_BK = (dot_score(world.user_BD, negatives.vector_BKD) - center_B1) / spread_B1
    crosses = negatives.timestep_BK < 1
    assert crosses.sum() > 60
    torch.testing.assert_close(t_BK[crosses], z_B1.expand_as(t_BK)[crosses], rtol=0, atol=1e-6)


def test_a_positive_that_is_its_own_boundary_is_its_own_negative():
    """It scores below the average item, and the noise below it: it falls to its score at once."""
    world = World()
    world.positive_BD = -0.01 * world.user_BD + world.item_ID.mean(0)
    negatives = world.negatives(AdarSampler(AdarSettings(candidates=1)))
    pool = world.pool_scores()
    own_B1 = (world.user_BD * world.positive_BD).sum(1, keepdim=True)
    is_harder_BK = pool.gather(1, negatives.source.at_BK) > own_B1
    at_once_BK = ~is_harder_BK & (own_B1 < pool.mean(1, keepdim=True))
    assert at_once_BK.sum() > 60
    assert negatives.timestep_BK[at_once_BK].max() < 1e-7
    own_BKD = world.positive_BD[:, None].expand_as(negatives.vector_BKD)
    torch.testing.assert_close(negatives.vector_BKD[at_once_BK], own_BKD[at_once_BK])


def test_rotating_the_embedding_space_rotates_the_negatives():
    world, turned = World(), World()
    rotation = torch.linalg.qr(random_vectors(DIM, DIM, seed=3)).Q
    turned.user_BD, turned.item_ID, turned.positive_BD = (
        vectors @ rotation for vectors in (world.user_BD, world.item_ID, world.positive_BD)
    )
    for gamma in (1, 0.6):
        here, there = (
            world.negatives(AdarSampler(AdarSettings(gamma=gamma))),
            turned.negatives(AdarSampler(AdarSettings(gamma=gamma))),
        )
        torch.testing.assert_close(here.timestep_BK, there.timestep_BK)
        torch.testing.assert_close(here.vector_BKD @ rotation, there.vector_BKD)


@pytest.mark.parametrize("scale", [1e-2, 3.7, 1e4])
def test_scaling_the_embeddings_scales_the_negatives(scale):
    world, scaled = World(), World()
    scaled.user_BD, scaled.item_ID, scaled.positive_BD = (
        vectors * scale for vectors in (world.user_BD, world.item_ID, world.positive_BD)
    )
    for gamma in (1, 0.5):
        here, there = (
            world.negatives(AdarSampler(AdarSettings(gamma=gamma))),
            scaled.negatives(AdarSampler(AdarSettings(gamma=gamma))),
        )
        torch.testing.assert_close(here.timestep_BK, there.timestep_BK)
        torch.testing.assert_close(here.vector_BKD * scale, there.vector_BKD)


def test_shifting_all_items_shifts_the_negatives():
    world, shifted = World(), World()
    shift = random_vectors(DIM, seed=4)
    shifted.item_ID, shifted.positive_BD = world.item_ID + shift, world.positive_BD + shift
    here, there = world.negatives(AdarSampler()), shifted.negatives(AdarSampler())
    torch.testing.assert_close(here.timestep_BK, there.timestep_BK)
    torch.testing.assert_close(here.vector_BKD + shift, there.vector_BKD)


def test_the_models_own_score_decides_and_its_units_do_not_matter():
    plain, other = World(), World(score=lambda user, item: 3 * dot_score(user, item) - 50)
    torch.testing.assert_close(
        plain.negatives(AdarSampler()).vector_BKD, other.negatives(AdarSampler()).vector_BKD
    )
    easiest = World(score=lambda user, item: -dot_score(user, item))
    at_BK = plain.negatives(AdarSampler()).source.at_BK
    assert not torch.equal(at_BK, easiest.negatives(AdarSampler()).source.at_BK)


def test_a_score_that_is_a_network_meets_its_boundary_too():
    hidden = random_vectors(2 * DIM, 16, seed=5) / math.sqrt(DIM)

    def network(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        rows, K = max(len(user_BD), len(item_BKD)), item_BKD.shape[1]
        both = torch.cat([user_BD[:, None].expand(rows, K, -1), item_BKD.expand(rows, K, -1)], 2)
        return dot_score(user_BD, item_BKD) + torch.tanh(both @ hidden).sum(2)

    world, settings = World(score=network), AdarSettings(beta=0.7, candidates=4, negatives=3)
    negatives = world.negatives(AdarSampler(settings))
    pool = network(world.user_BD, world.item_ID[world.pool_P][None])
    center_B1 = pool.mean(1, keepdim=True)
    excess_B1 = network(world.user_BD, world.positive_BD[:, None]) - center_B1
    boundary_B1 = center_B1 + torch.minimum(excess_B1, 0.7 * excess_B1)
    off_BK = (network(world.user_BD, negatives.vector_BKD) - boundary_B1).abs() / pool.std(1, keepdim=True)
    crosses = negatives.timestep_BK < 1
    assert crosses.sum() > 60
    assert off_BK[crosses].max() < 0.02
    linear = World().negatives(AdarSampler(settings))
    assert not torch.equal(linear.timestep_BK, negatives.timestep_BK)


# What they are made of


def test_each_negative_is_made_of_one_item_of_the_pool():
    world = World(rows=8)
    noise = world.noise_items(AdarSampler(AdarSettings(negatives=3)))
    assert all(len(items) == 1 and items <= set(world.pool_P.tolist()) for row in noise for items in row)


def test_a_negative_tells_what_item_it_is_made_of():
    world = World()
    negatives = world.negatives(AdarSampler(AdarSettings(negatives=3)))
    source = negatives.source
    assert torch.equal(source.vector_PD, world.item_ID[source.item_P])
    item_BK = source.item_P[source.at_BK]
    angle_BK1 = (negatives.timestep_BK * math.pi / 2)[..., None]
    mean_D = world.item_ID[world.pool_P].mean(0)
    on_the_way_BKD = mean_D + angle_BK1.cos() * (world.positive_BD[:, None] - mean_D)
    torch.testing.assert_close(
        negatives.vector_BKD, on_the_way_BKD + angle_BK1.sin() * (world.item_ID[item_BK] - mean_D)
    )


def test_isotropic_noise_is_no_item():
    assert World().negatives(AdarSampler(AdarSettings(noise="isotropic"))).source is None


def test_with_candidates_enough_the_noise_is_the_hardest_unseen_item_of_the_pool():
    seen = torch.rand(8, ITEMS, generator=torch.Generator().manual_seed(5)) < 0.7
    world = World(rows=8, seen=lambda item: seen[:, item])
    noise = world.noise_items(
        AdarSampler(AdarSettings(candidates=2000, negatives=2, pool=40, hidden_positives=0))
    )
    score_BP = world.pool_scores().masked_fill(seen[:, world.pool_P], -torch.inf)
    hardest = world.pool_P[score_BP.argmax(1)]
    assert noise == [[{item}] * 2 for item in hardest.tolist()]


def test_one_candidate_makes_every_item_of_the_pool_equally_likely():
    world = World(rows=2000, items=8)
    source = world.negatives(AdarSampler(AdarSettings(candidates=1, negatives=1, pool=64))).source
    drawn = source.item_P[source.at_BK[:, 0]]
    share = torch.bincount(world.pool_P, minlength=8) / 64
    counts, expected = torch.bincount(drawn, minlength=8), 2000 * share
    chi_square = ((counts - expected).square() / expected.clamp_min(1)).sum()
    assert (counts[expected == 0] == 0).all()
    assert chi_square < 24.3  # the 0.999 quantile with 7 degrees of freedom


def test_the_more_candidates_the_harder_the_noise():
    world = World()
    hardness = []
    for M in (1, 4, 16, 64):
        source = world.negatives(AdarSampler(AdarSettings(candidates=M))).source
        hardness.append(world.pool_scores().gather(1, source.at_BK).mean().item())
    assert hardness == sorted(hardness)
    assert hardness[-1] > hardness[0] + 3


@pytest.mark.parametrize(
    ("count", "hidden", "M"), [(140, 2, 7), (140, 4, 4), (300, 4, 4), (1200, 4, 4), (140, 0, 16), (20, 4, 16)]
)
def test_who_has_seen_much_gets_fewer_candidates_but_no_fewer_than_four(count: int, hidden: float, M: int):
    """On average the hardest of M items of N has rank N / (M + 1) among them."""
    rows, N = 400, 2000
    world = World(rows=rows, items=N, seen_count_B=torch.full((rows,), count))
    world.positive_BD = world.item_ID[:1].expand(rows, -1)
    negatives = world.negatives(
        AdarSampler(AdarSettings(candidates=16, negatives=4, hidden_positives=hidden, pool=1500))
    )
    unrounded = N / (hidden * count) if hidden else math.inf
    assert negatives.kept_B.tolist() == pytest.approx([min(max(unrounded, 4), 16) / 16] * rows)
    score_BP = world.pool_scores()
    score_BK = score_BP.gather(1, negatives.source.at_BK)
    harder_BK = (score_BP[:, None] > score_BK[..., None]).double().mean(2)
    # The share of harder ones is beta-distributed: its variance is below 1 / (M + 1)^2.
    assert abs(harder_BK.mean() - 1 / (M + 1)) < 4 / (M + 1) / math.sqrt(harder_BK.numel())


def test_candidates_stay_few_for_everybody_where_they_are():
    half = torch.full((ROWS,), ITEMS // 2)
    for M in (1, 3):
        few = World(seen_count_B=half).negatives(AdarSampler(AdarSettings(candidates=M)))
        assert torch.equal(
            few.vector_BKD, World().negatives(AdarSampler(AdarSettings(candidates=M))).vector_BKD
        )


def test_with_the_candidates_the_boundary_falls():
    """A sixteenth of the candidates, half of the boundary: the fourth root."""
    seen_count_B = torch.full((ROWS,), ITEMS)
    world = World(seen_count_B=seen_count_B)
    negatives = world.negatives(AdarSampler(AdarSettings(beta=0.8, candidates=64, hidden_positives=1)))
    pool = world.pool_scores()
    center_B1 = pool.mean(1, keepdim=True)
    excess_B1 = (world.user_BD * world.positive_BD).sum(1, keepdim=True) - center_B1
    share_BK = (dot_score(world.user_BD, negatives.vector_BKD) - center_B1) / excess_B1
    crosses = (negatives.timestep_BK > 0) & (negatives.timestep_BK < 1) & (excess_B1 > 1)
    assert crosses.sum() > 60
    assert (share_BK[crosses] - 0.4).abs().max() < 0.01


def test_no_seen_item_is_ever_the_noise_even_of_users_who_have_seen_nearly_all():
    unseen = torch.stack(
        [torch.randperm(40, generator=torch.Generator().manual_seed(b))[:2] for b in range(12)]
    )
    seen = torch.ones(12, 40, dtype=torch.bool).scatter(1, unseen, False)
    user_E, item_E = seen.nonzero().T
    observed = UserItems(user_E, item_E, 12, 40)
    world = World(rows=12, items=40, seen=lambda item: observed.contains_shared(torch.arange(12), item))
    given = 0
    for key in range(3):
        mask = world.negatives(AdarSampler(AdarSettings(candidates=8)), key).mask_BK
        noise = world.noise_items(AdarSampler(AdarSettings(candidates=8)), key)
        for row in range(12):
            for k in mask[row].nonzero()[:, 0].tolist():
                assert noise[row][k] <= set(unseen[row].tolist())
                given += 1
    assert 0 < given < 3 * 12 * 4  # eight candidates miss the two unseen items now and then


def test_a_user_who_has_seen_everything_gets_no_negative():
    seen = torch.zeros(ROWS, ITEMS, dtype=torch.bool)
    seen[3] = seen[17] = True
    negatives = World(seen=lambda item: seen[:, item]).negatives(AdarSampler())
    assert (~negatives.mask_BK).any(1).nonzero()[:, 0].tolist() == [3, 17]
    assert not negatives.mask_BK[[3, 17]].any()
    assert negatives.vector_BKD.isfinite().all()


@pytest.mark.parametrize(("K", "M", "pool"), [(1, 1, 2), (1, 16, 256), (4, 1, 8), (8, 32, 700)])
def test_shapes(K, M, pool):
    negatives = World().negatives(AdarSampler(AdarSettings(negatives=K, candidates=M, pool=pool)))
    assert negatives.vector_BKD.shape == (ROWS, K, DIM)
    assert negatives.mask_BK.shape == negatives.timestep_BK.shape == (ROWS, K)
    assert negatives.mask_BK.all()
    assert negatives.item_BK is None


SEEN_BY_TWO = UserItems(torch.tensor([0, 1]), torch.tensor([3, 4]), 2, ITEMS)


@pytest.mark.parametrize("score", [dot_score, lambda user_BD, item_BKD: 2 * dot_score(user_BD, item_BKD)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"user_BD": random_vectors(2 * ROWS, DIM)},
            "user_BD and positive_BD have the shapes [120, 12] and [60, 12]",
        ),
        ({"positive_BD": random_vectors(ROWS, 1, DIM)}, "the shapes [60, 12] and [60, 1, 12]"),
        (
            {"user_BD": random_vectors(ROWS, DIM + 1), "positive_BD": random_vectors(ROWS, DIM + 1)},
            "SamplingContext.vectors gives items of [12] numbers, and positive_BD has [13]",
        ),
        (
            {"seen": lambda item: torch.zeros(1, len(item), dtype=torch.bool)},
            "SamplingContext.seen returns bool of",
        ),
        (
            {"seen": lambda item: torch.zeros(ROWS, 1, dtype=torch.bool)},
            "shape [60, 1] for items of shape [256]",
        ),
        ({"seen": lambda item: torch.zeros(len(item), dtype=torch.bool)}, "return bool of shape [60, 256]"),
        ({"seen": lambda item: torch.zeros(ROWS, len(item))}, "SamplingContext.seen returns float32"),
        (
            {"seen": SEEN_BY_TWO.seen_by(torch.tensor([0, 1]))},
            "SamplingContext.seen returns bool of shape [2, 256]",
        ),
        (
            {"n_items": ITEMS + 1, "seen": SEEN_BY_TWO.seen_by(torch.zeros(ROWS, dtype=torch.int64))},
            f"SamplingContext.n_items is {ITEMS + 1}, but its UserItems was made for {ITEMS} items",
        ),
        ({"seen_count_B": torch.ones(1)}, "seen_count_B has the shape [1] for 60 rows; give the counts of"),
        ({"seen_count_B": torch.ones(ROWS, 1)}, "SamplingContext.seen_count_B has the shape [60, 1]"),
        ({"seen_count_B": torch.ones(2 * ROWS)}, "SamplingContext.seen_count_B has the shape [120]"),
        ({"seen_count_B": np.ones(ROWS)}, "SamplingContext.seen_count_B is a ndarray"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(score, change, says):
    """Compiled loops would read memory that is not theirs."""
    world = World(score=score)
    vectors = {"user_BD": world.user_BD, "positive_BD": world.positive_BD}
    vectors = {name: change.get(name, vector).float() for name, vector in vectors.items()}
    known = {name: change.get(name) for name in ("seen", "seen_count_B")}
    known["n_items"] = change.get("n_items", ITEMS)
    context = replace(world.items, vectors=lambda item: world.item_ID[item].float(), **known)
    with pytest.raises(ValueError, match=re.escape(says)):
        AdarSampler()(*vectors.values(), context)


@pytest.mark.parametrize("wide", [DIM - 1, DIM + 1])
def test_users_of_another_length_than_items_are_refused_where_scores_are_products(wide):
    """Compiled loops would read beyond them; another score may read users of any length."""
    world = World()
    user_BD, positive_BD = random_vectors(ROWS, wide).float(), world.positive_BD.float()
    context = replace(world.items, vectors=lambda item: world.item_ID[item].float())
    with pytest.raises(ValueError, match=re.escape(f"the shapes [60, {wide}] and [60, {DIM}]")):
        AdarSampler()(user_BD, positive_BD, context)
    context = replace(
        context, score=lambda user_BD, item_BKD: user_BD.sum(1, keepdim=True) * item_BKD.sum(-1)
    )
    assert AdarSampler()(user_BD, positive_BD, context).vector_BKD.shape == (ROWS, 4, DIM)


def test_a_compiled_step_draws_the_same_negatives():
    world = World()
    seen = UserItems(torch.arange(ROWS), torch.arange(ROWS) % ITEMS, ROWS, ITEMS)
    user_B, rng = torch.arange(ROWS), RowRng(torch.arange(ROWS), 0)
    user_BD, positive_BD = world.user_BD.float(), world.positive_BD.float().requires_grad_()
    table_ID = world.item_ID.float().requires_grad_()

    def step() -> torch.Tensor:
        counts_B = seen.counts()[user_B]
        context = SamplingContext(
            lambda item: table_ID[item], ITEMS, seen=seen.seen_by(user_B), seen_count_B=counts_B
        )
        negatives = AdarSampler()(user_BD * 2, positive_BD, context, rng)
        return dot_score(user_BD * 2, negatives.vector_BKD).sum()

    expected = torch.autograd.grad(step(), table_ID)
    torch.testing.assert_close(
        torch.autograd.grad(torch.compile(step, backend="eager")(), table_ID), expected
    )


def test_no_rows_give_no_negatives():
    for gamma in (1, 0.5):
        world = World(rows=0)
        assert world.negatives(AdarSampler(AdarSettings(gamma=gamma))).vector_BKD.shape == (0, 4, DIM)


def test_the_negatives_of_a_row_differ():
    vector_BKD = (
        World(rows=300).negatives(AdarSampler(AdarSettings(negatives=4, candidates=1, pool=256))).vector_BKD
    )
    same = (vector_BKD[:, :, None] == vector_BKD[:, None]).all(-1).float().sum() - 300 * 4
    # A pair of negatives is the same where both draw the same place of the pool, or the same item twice.
    expected = 300 * 4 * 3 * (1 / 256 + 1 / ITEMS)
    assert same < 2 * expected


def test_a_row_gets_the_same_negatives_whichever_worker_holds_it():
    world = World()
    whole = world.negatives(AdarSampler(), key=4)
    for worker in range(3):
        rows = torch.arange(worker, ROWS, 3)
        part = AdarSampler()(world.user_BD[rows], world.positive_BD[rows], world.items, RowRng(rows, 4))
        torch.testing.assert_close(part.timestep_BK, whole.timestep_BK[rows])
        torch.testing.assert_close(part.vector_BKD, whole.vector_BKD[rows])


# Whom the gradient reaches


def test_the_gradient_reaches_noise_items_and_not_the_positive_through_its_diffused_copy():
    world = World(rows=10)
    world.positive_BD.requires_grad_()
    world.user_BD.requires_grad_()
    world.item_ID.requires_grad_()
    vector_BKD = world.negatives(AdarSampler()).vector_BKD
    positive, user, items = torch.autograd.grad(
        dot_score(world.user_BD, vector_BKD).sum(),
        [world.positive_BD, world.user_BD, world.item_ID],
        allow_unused=True,
    )
    assert positive is None
    torch.testing.assert_close(user, vector_BKD.detach().sum(1))
    assert 0 < items.any(1).sum() <= 10 * 4


def test_a_positive_that_is_also_in_the_table_is_pushed_as_noise_alone():
    """The positive comes from the table itself, as in training: its row's gradient is that of noise."""
    world = World(rows=10)
    world.item_ID.requires_grad_()
    own = world.item_ID[100:110]
    negatives = AdarSampler(AdarSettings(negatives=1))(
        world.user_BD, own, world.items, RowRng(torch.arange(10), 0)
    )
    (gradient,) = torch.autograd.grad(negatives.vector_BKD.sum(), world.item_ID)
    noise = gradient.any(1)
    assert noise.sum() <= 10
    # Noise enters with sin(phi), each row's with its own.
    total = torch.sin(negatives.timestep_BK * math.pi / 2).sum() * DIM
    torch.testing.assert_close(gradient.sum(), total)


def test_pairwise_gradients_are_those_of_the_method():
    """-g e_u on the positive, +g sin(phi*) e_u on the noise item, and on the user
    -g [(1 - cos phi*)(e_i - mu) - sin(phi*)(n - mu)], with g = sigmoid(s_t - s_0)."""
    world = World(rows=20)
    noise = torch.tensor(
        [items.pop() for (items,) in world.noise_items(AdarSampler(AdarSettings(negatives=1, candidates=4)))]
    )
    for leaf in (world.user_BD, world.positive_BD, world.item_ID):
        leaf.requires_grad_()
    negatives = world.negatives(AdarSampler(AdarSettings(negatives=1, candidates=4)))
    s_t = dot_score(world.user_BD, negatives.vector_BKD)[:, 0]
    s_0 = (world.user_BD * world.positive_BD).sum(1)
    softplus(s_t - s_0).sum().backward()

    with torch.no_grad():
        e_u, e_i, n = world.user_BD, world.positive_BD, world.item_ID[noise]
        mu = world.item_ID[world.pool_P].mean(0)
        g = torch.sigmoid(s_t - s_0)[:, None]
        phi = negatives.timestep_BK * math.pi / 2
        on_noise = torch.zeros_like(world.item_ID).index_add(0, noise, g * torch.sin(phi) * e_u)
        on_user = -g * ((1 - torch.cos(phi)) * (e_i - mu) - torch.sin(phi) * (n - mu))
    torch.testing.assert_close(world.positive_BD.grad, -g * e_u)
    torch.testing.assert_close(world.item_ID.grad, on_noise)
    torch.testing.assert_close(world.user_BD.grad, on_user)
    assert len(phi.unique()) > 5


# What it must not choke on


@pytest.mark.parametrize("gamma", [1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("users", "items", "n_items"),
    [(1, 1, 100), (0, 1, 100), (1, 0, 100), (0, 0, 100), (1, 1, 1), (1e7, 1e7, 100), (1e-15, 1e-15, 100)],
    ids=["ordinary", "zero users", "zero items", "all zero", "one item", "huge", "tiny"],
)
def test_every_negative_is_made_of_numbers(gamma, dtype, users, items, n_items):
    user_BD = (random_vectors(16, DIM, seed=1) * users).to(dtype)
    item_ID = (random_vectors(n_items, DIM, seed=2) * items).to(dtype).requires_grad_()
    sampler = AdarSampler(AdarSettings(gamma=gamma))
    for key in range(2):
        negatives = sampler(
            user_BD,
            item_ID[torch.arange(16) % n_items],
            SamplingContext(lambda i: item_ID[i], n_items),
            RowRng(torch.arange(16), key),
        )
        assert negatives.vector_BKD.dtype == dtype
        assert negatives.vector_BKD.isfinite().all()
        assert ((negatives.timestep_BK >= 0) & (negatives.timestep_BK <= 1)).all()
        assert negatives.mask_BK.all()
    (gradient,) = torch.autograd.grad(dot_score(user_BD, negatives.vector_BKD).sum(), item_ID)
    assert gradient.isfinite().all()
    assert sampler.r_mean.isfinite()


def test_a_catalog_of_one_item_gives_that_item():
    item_ID = random_vectors(1, DIM)
    negatives = AdarSampler()(
        random_vectors(5, DIM, seed=1), item_ID.expand(5, -1), SamplingContext(lambda i: item_ID[i], 1)
    )
    torch.testing.assert_close(negatives.vector_BKD, item_ID.expand(5, 4, DIM))


def test_single_precision_gives_the_negatives_of_double_precision():
    world, single = World(), World()
    single.user_BD, single.item_ID, single.positive_BD = (
        vectors.float() for vectors in (world.user_BD, world.item_ID, world.positive_BD)
    )
    double_t, single_t = (w.negatives(AdarSampler()).timestep_BK.double() for w in (world, single))
    assert (double_t - single_t).abs().max() < 1e-5


# The running mean


def standardized(world: World) -> torch.Tensor:
    pool = world.pool_scores()
    own = (world.user_BD * world.positive_BD).sum(1)
    return (own - pool.mean(1)) / pool.std(1, correction=0)


def test_the_running_mean_follows_the_positives_scores_in_training_mode_alone():
    world, sampler = World(), AdarSampler(AdarSettings(gamma=0.5))
    sampler.momentum = 0.9
    world.negatives(sampler, key=0)
    expected = standardized(world).mean().item()
    assert sampler.r_mean.item() == pytest.approx(expected, rel=1e-5)
    world.positive_BD = world.positive_BD * 2
    world.negatives(sampler, key=1)
    expected = 0.9 * expected + 0.1 * standardized(world).mean().item()
    assert sampler.r_mean.item() == pytest.approx(expected, rel=1e-5)
    sampler.eval()
    world.negatives(sampler, key=2)
    assert sampler.r_mean.item() == pytest.approx(expected, rel=1e-5)


def test_gamma_1_needs_no_running_mean():
    sampler = AdarSampler(AdarSettings(gamma=1))
    World().negatives(sampler)
    assert sampler.r_mean == 0


def test_a_batch_without_rows_leaves_the_running_mean_alone():
    sampler = AdarSampler(AdarSettings(gamma=0.5))
    World().negatives(sampler)
    before = sampler.r_mean.item()
    World(rows=0).negatives(sampler)
    assert sampler.r_mean.item() == before


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_batch_of_wrong_scores_leaves_the_running_mean_alone(wrong):
    world, sampler = World(), AdarSampler(AdarSettings(gamma=0.5))
    world.negatives(sampler)
    before = sampler.r_mean.item()
    world.positive_BD[0, 0] = wrong
    world.negatives(sampler, key=1)
    assert sampler.r_mean.item() == before


def test_the_running_mean_is_saved_and_loaded():
    trained, fresh = AdarSampler(AdarSettings(gamma=0.5)), AdarSampler(AdarSettings(gamma=0.5))
    World().negatives(trained)
    fresh.load_state_dict(trained.state_dict())
    world = World()
    assert torch.equal(world.negatives(trained.eval()).vector_BKD, world.negatives(fresh.eval()).vector_BKD)
    assert fresh.r_mean > 0


@pytest.mark.parametrize("kind", [World, lambda **known: Compiled(None, **known)], ids=["plain", "compiled"])
def test_without_knowledge_of_the_seen_no_positive_is_its_own_noise(kind):
    """It scores best of all, so it would be chosen wherever it is among the candidates."""
    positive_B = torch.arange(ROWS) % ITEMS
    negatives = kind(positive_B=positive_B).negatives(AdarSampler(AdarSettings(candidates=64)))
    noise_BK = negatives.source.item_P[negatives.source.at_BK]
    assert negatives.mask_BK.all()
    assert (noise_BK != positive_B[:, None]).all()


# Compiled loops and plain torch


class Compiled(World):
    """The same world in single precision, whose users' items are looked up as in training."""

    def __init__(self, seen: UserItems | None, **known: Any) -> None:
        super().__init__(seen=None if seen is None else seen.seen_by(torch.arange(ROWS)), **known)
        self.user_BD, self.item_ID, self.positive_BD = (
            vectors.float() for vectors in (self.user_BD, self.item_ID, self.positive_BD)
        )


def some_seen(share: float) -> UserItems:
    seen_BI = torch.rand(ROWS, ITEMS, generator=torch.Generator().manual_seed(1)) < share
    seen_BI[3] = True
    return UserItems(*seen_BI.nonzero().T, ROWS, ITEMS)


@pytest.mark.parametrize("share", [None, 0.005, 0.4])
@pytest.mark.parametrize("settings", [{}, {"gamma": 0.5, "candidates": 7}])
def test_compiled_loops_choose_and_diffuse_like_plain_torch(share, settings):
    """In double precision everything is plain torch."""
    seen = None if share is None else some_seen(share)
    known = {} if seen is None else {"seen": lambda item: seen.contains_shared(torch.arange(ROWS), item)}
    sampler = AdarSampler(AdarSettings(**settings))
    plain, compiled = World(**known), Compiled(seen)
    expected, ours = plain.negatives(sampler), compiled.negatives(AdarSampler(AdarSettings(**settings)))
    assert expected.score_BK is None
    assert ours.score_BK is not None
    assert torch.equal(ours.mask_BK, expected.mask_BK)
    mask = expected.mask_BK
    assert mask.any(1).sum() >= ROWS - 1
    assert torch.equal(ours.source.at_BK[mask], expected.source.at_BK[mask])
    assert (ours.timestep_BK - expected.timestep_BK)[mask].abs().max() < 1e-5
    score_BK = dot_score(compiled.user_BD, ours.vector_BKD)
    torch.testing.assert_close(ours.score_BK, score_BK, rtol=1e-4, atol=1e-4)


def test_gradients_of_compiled_scores_are_those_of_the_negatives_vectors():
    weight_BK = random_vectors(ROWS, 4, seed=7, dtype=torch.float32)
    gradients = []
    for by_vectors in (False, True):
        world = Compiled(some_seen(0.05))
        leaves = [world.user_BD, world.positive_BD, world.item_ID]
        for leaf in leaves:
            leaf.requires_grad_()
        negatives = world.negatives(AdarSampler())
        score_BK = dot_score(world.user_BD, negatives.vector_BKD) if by_vectors else negatives.score_BK
        gradients.append(torch.autograd.grad((score_BK * weight_BK).sum(), leaves, allow_unused=True))
    assert gradients[0][1] is gradients[1][1] is None  # the positives'
    for ours, expected in zip(*gradients, strict=True):
        if expected is not None:
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_rows_windows_follow_each_other_around_the_pool():
    """Of a pool of as many vectors as a row has candidates, each is a candidate exactly once."""
    K, M = 4, 16
    for world in (World(), Compiled(None)):
        negatives = world.negatives(AdarSampler(AdarSettings(negatives=K, candidates=M, pool=K * M)))
        score_BP = world.pool_scores()
        for row, at_K in enumerate(negatives.source.at_BK.tolist()):
            hardest_first = score_BP[row].argsort(descending=True).tolist()
            assert len(set(at_K)) == K  # no candidate is in two windows
            assert hardest_first[0] in at_K  # and each is in one
            offset = int(RowRng(torch.arange(ROWS), 0).integers(K * M, 1, stream=1)[row])
            for k, at in enumerate(at_K):
                window = [(offset + k * M + member) % (K * M) for member in range(M)]
                assert at == max(window, key=lambda member: score_BP[row, member].item())


def test_where_a_rows_transition_point_lies_does_not_depend_on_the_other_rows():
    """Some rows' scores are linear and others' are not."""

    def score(user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD) + user_BD[:, :1].relu() * item_BKD.square().sum(-1)

    world = World(score=score)
    whole = world.negatives(AdarSampler(), key=4)
    for rows in (world.user_BD[:, 0] > 0, world.user_BD[:, 0] <= 0):
        at = rows.nonzero()[:, 0]
        part = AdarSampler()(world.user_BD[at], world.positive_BD[at], world.items, RowRng(at, 4))
        torch.testing.assert_close(part.timestep_BK, whole.timestep_BK[at])


@pytest.mark.parametrize("settings", [{}, {"gamma": 0.5}])
def test_rows_of_tables_get_the_scores_and_gradients_of_their_vectors(settings):
    world = Compiled(some_seen(0.1))
    draw, weight_BK = torch.Generator().manual_seed(3), random_vectors(ROWS, 4, dtype=torch.float32)
    user_B, positive_B = (torch.randint(n, (ROWS,), generator=draw) for n in (ROWS // 2, ITEMS))
    users, items = Table(ROWS // 2, DIM), Table(ITEMS, DIM)
    answers, gradients = [], []
    for by_id in (False, True):
        users.weight.data, items.weight.data = world.user_BD[: ROWS // 2].clone(), world.item_ID.clone()
        if by_id:
            users.collect()
            items.collect()
        context = replace(
            world.items,
            vectors=items,
            user_B=user_B,
            positive_B=positive_B,
            pairs=TablePairs.of(users, items),
        )
        vectors = [torch.empty(ROWS, 0)] * 2 if by_id else [users(user_B), items(positive_B)]
        negatives = AdarSampler(AdarSettings(**settings))(*vectors, context, RowRng(torch.arange(ROWS), 0))
        (negatives.score_BK * weight_BK).sum().backward()
        answers.append((negatives.score_BK, negatives.timestep_BK, negatives.vector_BKD))
        for table in (users, items):
            total = torch.zeros_like(table.weight) if by_id else table.weight.grad
            for row_R, vector_RD in table.take_gradients() if by_id else []:
                total.index_add_(0, row_R, vector_RD)
            gradients.append(total)
    torch.testing.assert_close(answers[1], answers[0])
    torch.testing.assert_close(gradients[2:], gradients[:2])


@pytest.mark.parametrize("gamma", [1, 0.5])
def test_autocast_leaves_compiled_loops_in_single_precision(gamma):
    world = Compiled(some_seen(0.1))
    expected = world.negatives(AdarSampler(AdarSettings(gamma=gamma)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = world.negatives(AdarSampler(AdarSettings(gamma=gamma)))
    assert torch.equal(ours.timestep_BK, expected.timestep_BK)
    assert torch.equal(ours.score_BK, expected.score_BK)
