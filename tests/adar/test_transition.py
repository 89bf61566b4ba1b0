"""The forward process, the transition point and the score-aware function, against the trajectory itself."""

import math

import pytest
import torch

from adar_ray.adar.transition import diffuse, score_aware_boundary, search_angle, transition_angle

QUARTER = math.pi / 2
GAMMAS = [1, 0.75, 0.5]


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def trajectory(r, b, phi):
    return r * torch.cos(phi) + b * torch.sin(phi)


def random_cases(n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """r of either sign, and b <= z <= r, where the score falls to z somewhere between 0 and pi / 2."""
    draw = torch.Generator().manual_seed(0)
    r, first, second = (torch.randn(n, generator=draw, dtype=torch.float64) * 2 + 1 for _ in range(3))
    b, z, r = torch.stack([r, first, second]).sort(0).values
    return r, b, z


# The forward process


def test_diffusion_starts_at_the_positive_and_ends_at_the_noise_item():
    positive, noise, mean = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start, end = diffuse(positive, noise, mean, tensor(0, QUARTER))
    torch.testing.assert_close(start, positive, rtol=0, atol=1e-15)
    torch.testing.assert_close(end, noise, rtol=0, atol=1e-15)


def test_diffusion_is_the_rotation_about_the_catalogs_mean():
    positive, noise, mean = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (half_way,) = diffuse(positive, noise, mean, tensor(math.pi / 4))
    torch.testing.assert_close(half_way, mean + math.sqrt(0.5) * ((positive - mean) + (noise - mean)))


def test_the_score_of_a_diffused_positive_has_the_mean_and_variance_of_the_method():
    """Over all items of a catalog as noise: mean r cos(phi), variance sin^2(phi), in the user's units."""
    draw = torch.Generator().manual_seed(0)
    skew = torch.randn(8, 8, generator=draw, dtype=torch.float64)
    table = torch.randn(300, 8, generator=draw, dtype=torch.float64).exp() @ skew + 2
    user, positive, mean = torch.randn(8, generator=draw, dtype=torch.float64), table[7], table.mean(0)
    catalog = table @ user
    center, spread = catalog.mean(), catalog.std(correction=0)
    r = (positive @ user - center) / spread
    for phi in torch.linspace(0, QUARTER, 9, dtype=torch.float64):
        noisy = diffuse(positive, table, mean, phi.expand(300))
        score = (noisy @ user - center) / spread
        torch.testing.assert_close(score.mean(), r * torch.cos(phi), rtol=0, atol=1e-12)
        torch.testing.assert_close(score.var(correction=0), torch.sin(phi) ** 2, rtol=0, atol=1e-12)


# The transition point


def test_the_score_is_above_the_boundary_before_the_transition_point_at_it_there_and_below_after():
    r, b, z = random_cases()
    phi = transition_angle(r, b, z)
    torch.testing.assert_close(trajectory(r, b, phi), z, rtol=0, atol=1e-7)
    step = 1e-3
    before, after = phi - step, phi + step
    assert (trajectory(r, b, before) > z)[before >= 0].all()
    assert (trajectory(r, b, after) < z)[after <= QUARTER].all()
    assert ((before >= 0) & (after <= QUARTER)).sum() > 300


def test_the_transition_point_is_the_first_fall_below_the_boundary_on_a_dense_grid():
    r, b, z = random_cases()
    grid = torch.linspace(0, QUARTER, 4001, dtype=torch.float64)
    below = trajectory(r[:, None], b[:, None], grid) < z[:, None]
    first = below.int().argmax(1)
    assert below.any(1).all()
    phi, step = transition_angle(r, b, z), grid[1]
    assert (phi <= grid[first] + 1e-9).all()
    assert (phi >= grid[first] - step - 1e-9).all()


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.8])
def test_at_the_quantile_of_the_noise_the_crossing_is_that_of_a_share_of_all_trajectories(rho):
    """Monte Carlo: with b the upper rho-quantile of Gaussian noise, a share rho is still above z."""
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    b = math.sqrt(2) * torch.erfinv(tensor(1 - 2 * rho))
    for r, z in [(3.0, 2.0), (2.0, 1.5), (4.0, 3.9)]:
        phi = transition_angle(tensor(r), b, tensor(z))
        above = (trajectory(r, noise, phi) > z).double().mean()
        assert above.item() == pytest.approx(rho, abs=4 * math.sqrt(rho * (1 - rho) / len(noise)))


def test_single_precision_finds_the_same_transition_point():
    r, b, z = random_cases()
    phi = transition_angle(*(x.float() for x in (r, b, z)))
    assert (trajectory(r, b, phi.double()) - z).abs().max() < 1e-5


def test_a_noise_item_harder_than_the_boundary_is_taken_as_it_is():
    r, b, z = tensor(2, 2, 2, -1, 0), tensor(1.9, 2, 50, -0.5, 0.1), tensor(1.8, 1, 0, -1, 0)
    assert transition_angle(r, b, z).tolist() == [QUARTER] * 5


def test_a_boundary_at_the_noise_items_own_score_is_reached_at_the_end():
    r, b = tensor(2, 1, 0.5, 3), tensor(1, -1, 0.5, 0)
    assert transition_angle(r, b, b).tolist() == pytest.approx([QUARTER] * 4, abs=1e-9)


def test_a_boundary_at_the_positives_own_score_is_reached_at_once_unless_the_score_rises_first():
    r, b = tensor(2, 2, -1, 0, -3), tensor(-1, 0, -1, -2, -3.5)
    assert transition_angle(r, b, r).tolist() == pytest.approx([0] * 5, abs=1e-7)
    rising_b = tensor(0.5, 1, 2)  # symmetric about the top, at atan(b / r)
    expected = [2 * math.atan2(b, 2) for b in rising_b.tolist()]
    assert transition_angle(tensor(2, 2, 2), rising_b, tensor(2, 2, 2)).tolist() == pytest.approx(
        expected, abs=1e-7
    )


def test_the_higher_the_boundary_the_nearer_the_transition_point_is_to_the_positive():
    draw = torch.Generator().manual_seed(2)
    r = torch.rand(100, 1, generator=draw, dtype=torch.float64) * 4 + 0.1
    b = torch.randn(100, 1, generator=draw, dtype=torch.float64)
    beta = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    phi = transition_angle(r.expand(-1, 100), b.expand(-1, 100), r * beta)
    falling = b <= r * beta
    steps = phi.diff(dim=1)[falling[:, :-1] & falling[:, 1:]]
    assert len(steps) > 5000
    assert (steps < 0).all()


def test_no_score_is_too_extreme_for_an_angle():
    edge = tensor(0, -0.0, 1e-30, -1e-30, 1e-7, -1e-7, 1, -1, 1e15, -1e15)
    r, b, z = (x.flatten() for x in torch.meshgrid(edge, edge, edge, indexing="ij"))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        phi = transition_angle(r.to(dtype), b.to(dtype), torch.minimum(z, r).to(dtype))
        assert ((phi >= 0) & (phi <= QUARTER + 0.01)).all()  # bfloat16 rounds pi / 2 up


# The score-aware function


def test_gamma_1_takes_a_fixed_share_of_each_score():
    r = tensor(0.1, 1, 3, 20)
    assert score_aware_boundary(r, 0.9, 1, 7.0).tolist() == pytest.approx([0.09, 0.9, 2.7, 18])


def test_gamma_one_half_takes_the_root_of_each_score_but_never_more_than_the_score():
    r = tensor(0.1, 1, 4, 16)
    assert score_aware_boundary(r, 0.8, 0.5, 4.0).tolist() == pytest.approx([0.1, 1, 0.8 * 4, 0.8 * 8])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("r_mean", [1.7, 0.3, 1e-3])  # it is small when training begins
def test_at_the_mean_score_gamma_does_not_matter(gamma, r_mean):
    assert score_aware_boundary(tensor(r_mean), 0.8, gamma, r_mean).tolist() == pytest.approx([0.8 * r_mean])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("r_mean", [2.0, 0.0, -1.0, 1e-8, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_boundary_is_a_number_and_never_above_the_positives_score(gamma, r_mean, dtype):
    r = torch.tensor([-1e4, -1.0, -1e-7, 0.0, 1e-30, 1e-7, 0.3, 1.0, 5.0, 1e4], dtype=dtype)
    z = score_aware_boundary(r, 0.9, gamma, torch.tensor(r_mean))
    assert z.dtype == dtype
    assert (z <= r).all()  # also says that none is NaN
    assert z.isfinite().all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_positive_that_scores_no_better_than_the_average_item_is_its_own_boundary(gamma):
    r = tensor(-3, -0.01, 0)
    assert score_aware_boundary(r, 0.9, gamma, 1.5).tolist() == r.tolist()


# The search, where there is no closed form


def test_the_search_finds_what_the_closed_form_finds():
    r, b, z = random_cases()
    found = search_angle(lambda phi: trajectory(r, b, phi), b, z)
    torch.testing.assert_close(found, transition_angle(r, b, z), rtol=0, atol=QUARTER / 1024)


def test_the_search_ends_where_any_falling_score_meets_the_boundary():
    b, z = tensor(-1.0, -1.0, 0.2), tensor(0.0, 0.9, 0.1)

    def score_at(phi: torch.Tensor) -> torch.Tensor:  # from 1 at the positive to -1 at the noise, bent
        return 1 - 2 * (phi / QUARTER) ** 3

    found = search_angle(score_at, b, z)
    assert found[:2].tolist() == pytest.approx(
        [QUARTER * 0.5 ** (1 / 3), QUARTER * 0.05 ** (1 / 3)], abs=2e-3
    )
    assert found[2] == QUARTER  # the noise item is itself beyond the boundary
