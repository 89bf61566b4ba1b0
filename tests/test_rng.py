"""Random integers that belong to a row: spread, independence, and the same numbers for the same row."""

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from adar_ray.rng import RowRng, splitmix64

GOLDEN = 0x9E3779B97F4A7C15


def signed(number: int) -> int:
    """The 64 bits of `number` as a signed integer."""
    number %= 1 << 64
    return number - (1 << 64) if number >> 63 else number


def python_splitmix64(state: int) -> int:
    """SplitMix64's output after `state`, in Python's own unbounded integers."""
    z = (state + GOLDEN) % (1 << 64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % (1 << 64)
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % (1 << 64)
    return z ^ (z >> 31)


def association(a: torch.Tensor, b: torch.Tensor, levels: int) -> float:
    """p-value of the chi-square test that two sequences of 0 to levels - 1 are independent."""
    table = torch.bincount(a * levels + b, minlength=levels**2).view(levels, levels)
    return chi2_contingency(table.numpy()).pvalue


def test_splitmix64_gives_the_published_outputs_of_seed_0():
    states = torch.tensor([signed(step * GOLDEN) for step in range(3)])
    outputs = [number % (1 << 64) for number in splitmix64(states).tolist()]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_splitmix64_wraps_and_shifts_like_unsigned_arithmetic():
    states = [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF, -987654321]
    assert splitmix64(torch.tensor(states)).tolist() == [
        signed(python_splitmix64(s % (1 << 64))) for s in states
    ]


@pytest.mark.parametrize("high", [1, 2, 3, 1000, 10**9, 2**31 - 1])
def test_integers_lie_between_zero_and_high(high):
    rng = RowRng(torch.arange(200), 5, 1)
    for numbers in (rng.integers(high, 50), rng.shared_integers(high, 5000)):
        assert numbers.min() >= 0
        assert numbers.max() < high
        assert numbers.max() >= 0.999 * (high - 1)  # and reach to the top
        assert numbers.min() <= 0.001 * high


@pytest.mark.parametrize("high", [2, 7, 64, 1000])
def test_integers_are_uniform(high):
    numbers = RowRng(torch.arange(500), 11, 3, 0).integers(high, 200)
    assert chisquare(torch.bincount(numbers.flatten(), minlength=high).numpy()).pvalue > 1e-3


def test_integers_of_one_column_are_uniform_over_rows():
    numbers = RowRng(torch.arange(50_000), 11).integers(50, 1)[:, 0]
    assert chisquare(torch.bincount(numbers, minlength=50).numpy()).pvalue > 1e-3


def test_shared_integers_are_uniform():
    numbers = RowRng(torch.arange(2), 0, 1, 0).shared_integers(64, 100_000)
    assert chisquare(torch.bincount(numbers, minlength=64).numpy()).pvalue > 1e-3


def test_neighboring_rows_and_columns_are_independent():
    numbers = RowRng(torch.arange(1000), 1).integers(10, 50)
    assert association(numbers[:-1].flatten(), numbers[1:].flatten(), 10) > 1e-3
    assert association(numbers[:, :-1].flatten(), numbers[:, 1:].flatten(), 10) > 1e-3


def test_streams_are_independent():
    rng = RowRng(torch.arange(500), 3, 1)
    assert association(rng.integers(10, 80).flatten(), rng.integers(10, 80, stream=1).flatten(), 10) > 1e-3
    first, second = (rng.shared_integers(10, 40_000, stream) for stream in (0, 1))
    assert association(first, second, 10) > 1e-3


def test_no_stream_row_or_step_repeats_the_numbers_of_another_at_another_place():
    """Of 31-bit numbers drawn 1200 times, hardly one comes twice."""
    steps = [RowRng(torch.arange(4), *key) for key in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 0, 0), (1, 1, 0))]
    own = [step.integers(2**31 - 1, 12, stream).flatten() for step in steps for stream in range(4)]
    shared = [step.shared_integers(2**31 - 1, 12, stream) for step in steps for stream in range(4)]
    numbers = torch.cat([*own, *shared])
    assert len(numbers) == 1200
    assert len(numbers.unique()) >= 1199


@pytest.mark.parametrize("other", [(4, 2, 7), (3, 3, 7), (3, 2, 8), (2, 3, 7), (3, 7, 2)])
def test_keys_are_independent(other):
    here, there = RowRng(torch.arange(500), 3, 2, 7), RowRng(torch.arange(500), *other)
    assert association(here.integers(10, 80).flatten(), there.integers(10, 80).flatten(), 10) > 1e-3
    assert association(here.shared_integers(10, 40_000), there.shared_integers(10, 40_000), 10) > 1e-3


def test_shared_integers_are_independent_of_each_rows_own():
    rng = RowRng(torch.arange(100), 3)
    shared = rng.shared_integers(10, 400).expand(100, -1)
    assert association(shared.flatten(), rng.integers(10, 400).flatten(), 10) > 1e-3


def test_a_row_draws_the_same_numbers_however_the_batch_is_divided():
    whole = RowRng(torch.arange(24), 7, 2, 5).integers(10**6, 9, stream=1)
    for workers in (1, 2, 3, 24):
        for worker in range(workers):
            part = RowRng(torch.arange(24)[worker::workers], 7, 2, 5).integers(10**6, 9, stream=1)
            assert torch.equal(part, whole[worker::workers])
    backwards = RowRng(torch.arange(24).flip(0), 7, 2, 5).integers(10**6, 9, stream=1)
    assert torch.equal(backwards.flip(0), whole)


def test_asking_for_more_numbers_changes_none_of_the_first():
    rng = RowRng(torch.arange(4), 1)
    assert torch.equal(rng.integers(1000, 20)[:, :5], rng.integers(1000, 5))


def test_columns_asked_for_one_by_one_hold_the_same_numbers():
    rng, column_BK = RowRng(torch.arange(3), 4), torch.tensor([[0, 7], [3, 3], [6, 1]])
    expected = rng.integers(1000, 8, stream=2).gather(1, column_BK)
    assert torch.equal(rng.integers_at(column_BK, 1000, stream=2), expected)


def test_shared_integers_are_the_same_for_any_rows():
    all_rows = RowRng(torch.arange(64), 9, 1).shared_integers(10**6, 100)
    assert torch.equal(RowRng(torch.tensor([5, 63]), 9, 1).shared_integers(10**6, 100), all_rows)
    assert torch.equal(
        RowRng(torch.tensor([], dtype=torch.int64), 9, 1).shared_integers(10**6, 100), all_rows
    )


def test_no_rows_draw_no_numbers():
    assert RowRng(torch.tensor([], dtype=torch.int64), 1).integers(10, 3).shape == (0, 3)


def test_fresh_draws_follow_torchs_seed_and_differ_from_call_to_call():
    def two() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return [RowRng.fresh(8).integers(10**6, 5) for _ in range(2)]

    first, again = two(), two()
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
