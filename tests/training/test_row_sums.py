"""Sums of rows' gradients, against `index_add_` in double precision."""

from __future__ import annotations

import pytest
import torch

from adar_ray.models.table import Gradients, Products, Table
from adar_ray.training.row_sums import RowSums

ROWS, DIM = 9, 5


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ids(high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def check(sums: RowSums, expected_ND: torch.Tensor, workers: int, given: set[int]) -> None:
    for worker in range(workers):
        row_R, total_RD = sums.of(worker)
        assert sorted(row_R.tolist()) == sorted(row for row in given if row % workers == worker)
        torch.testing.assert_close(total_RD.double(), expected_ND[row_R], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # with compiled loops, and without
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_each_row_is_dealt_once_with_the_sum_of_its_gradients(workers, dtype):
    """Over several calls of different sizes, one of them of no rows, and again after `clear`."""
    sums = RowSums(numbers(ROWS, DIM).to(dtype), ROWS, workers)
    for turn in range(2):
        expected_ND, given = torch.zeros(ROWS, DIM, dtype=torch.float64), set()
        for call, size in enumerate([3, 0, 40]):
            row_R, gradient_RD = ids(ROWS - 1, size, seed=turn + call), numbers(size, DIM, seed=call)
            sums.add([Gradients(row_R, gradient_RD.to(dtype))])
            expected_ND.index_add_(0, row_R, gradient_RD.double())
            given |= set(row_R.tolist())
            check(sums, expected_ND, workers, given)
        sums.clear()
        check(sums, expected_ND, workers, set())


@pytest.mark.parametrize("J", [0, 1, 3])
def test_gradients_that_are_multiples_of_rows_add_up_without_being_made(J):
    weight_ND, table = numbers(ROWS, DIM, seed=1), Table(6, DIM)
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(2))
    row_R, of_RJ = ids(ROWS, 50), ids(6, 50, J, seed=3)
    factor_RJ, own_R = numbers(50, J, seed=4), numbers(50, seed=5)
    own_R[::2] = 0
    sums = RowSums(weight_ND, len(weight_ND), 2)
    sums.add([Products(row_R, factor_RJ, table, of_RJ, own_R)])
    vector_RJD = table.weight.detach()[of_RJ].double()
    gradient_RD = (factor_RJ[..., None] * vector_RJD).sum(1) + own_R[:, None] * weight_ND[row_R]
    expected_ND = torch.zeros(ROWS, DIM, dtype=torch.float64).index_add_(0, row_R, gradient_RD)
    check(sums, expected_ND, 2, set(row_R.tolist()))
