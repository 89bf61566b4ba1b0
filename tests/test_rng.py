"""Random integers that belong to a row: spread, independence, and the same numbers for the same row."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, kstest

from adar_ray.rng import RowRng, uniform_numbers

MASK = (1 << 64) - 1


def python_state(*key: int) -> int:
    """What a key becomes: SplitMix64's finalizer after each of its parts, in Python's own integers."""
    state = 0
    for part in key:
        z = ((state ^ part) + 0x9E3779B97F4A7C15) & MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
        state = z ^ (z >> 31)
    return state


def philox_words(key: tuple[int, ...], stream: int, count: int) -> list[int]:
    """The first 32-bit words of a stream, low half first, from numpy's Philox run from its beginning."""
    key_2 = np.array([python_state(*key), stream], dtype=np.uint64)
    numbers = np.random.Philox(counter=0, key=key_2).random_raw(count // 2 + 1).tolist()
    return [half for number in numbers for half in (number & 0xFFFFFFFF, number >> 32)][:count]


def association(a: torch.Tensor, b: torch.Tensor, levels: int) -> float:
    """p-value of the chi-square test that two sequences of 0 to levels - 1 are independent."""
    table = torch.bincount(a * levels + b, minlength=levels**2).view(levels, levels)
    return chi2_contingency(table.numpy()).pvalue


@pytest.mark.parametrize("n", [1, 3, 8, 13])
@pytest.mark.parametrize("rows", [range(6), [5], [9, 2, 2, 7], range(40, 37, -1)], ids=str)
def test_a_rows_numbers_are_those_at_its_place_in_the_stream_of_philox(rows, n):
    for stream in (0, 5):
        drawn = RowRng(torch.tensor([*rows]), 3, 1, 7).integers(1000, n, stream).tolist()
        words = philox_words((3, 1, 7), stream, (max(rows) + 1) * n)
        assert drawn == [[word * 1000 >> 32 for word in words[row * n : row * n + n]] for row in rows]


def test_shared_numbers_are_those_of_a_stream_of_their_own():
    drawn = RowRng(torch.arange(5), 3, 1).shared_integers(10**6, 21, stream=2).tolist()
    assert drawn == [word * 10**6 >> 32 for word in philox_words((3, 1), 1 << 63 | 2, 21)]


def test_other_rows_of_a_step_have_its_numbers():
    rng, rows = RowRng(torch.arange(4), 7, 2, 5), torch.tensor([1 << 40, (1 << 40) + 3])
    assert torch.equal(rng.of_rows(rows).integers(10**6, 9, 1), RowRng(rows, 7, 2, 5).integers(10**6, 9, 1))
    assert torch.equal(rng.of_rows(rows).shared_integers(10**6, 9), rng.shared_integers(10**6, 9))


def test_uniform_numbers_are_uniform_and_exclude_both_ends():
    numbers = uniform_numbers(RowRng(torch.arange(1000), 4), 50, stream=0)
    assert 0 < numbers.min() < 1e-3
    assert 0.999 < numbers.max() < 1
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3


def test_shared_normals_are_normal_and_the_same_for_any_rows():
    numbers = RowRng(torch.arange(3), 4).shared_normals(100, 50)
    assert numbers.shape == (100, 50)
    assert kstest(numbers.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(RowRng(torch.tensor([8]), 4).shared_normals(100, 50), numbers)


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
