"""ALS: a matrix factorization that is solved row by row.

Legend: R rows (users or items), C columns (items or users), E entries of the matrix, B rows of a batch,
N entries of its longest row, K items per row, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from adar_ray.baselines.item_to_item import to_matrix
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.protocol import dot_score

_BATCH = 1 << 15  # vectors


class Factors(nn.Module):
    """A vector of each user and of each item, whose dot product is the score."""

    scores_by_dot_product = True

    def __init__(self, user_UD: torch.Tensor, item_ID: torch.Tensor) -> None:
        super().__init__()
        self.user_UD, self.item_ID = user_UD, item_ID

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.user_UD[batch["user"]]

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return self.item_ID[item]

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return dot_score(user_BD, item_BKD)


def als(
    observed: UserItems,
    dim: int = 64,
    alpha: float = 1.0,
    l2: float = 0.01,
    rounds: int = 15,
    seed: int = 0,
) -> Factors:
    """Hu, Koren and Volinsky, ICDM 2008: least squares over all pairs, those seen weighing `1 + alpha`."""
    generator, matrix_UI = np.random.default_rng(seed), to_matrix(observed)
    user_UD, item_ID = (
        torch.from_numpy(generator.normal(0, 0.01, (rows, dim)).astype(np.float32))
        for rows in matrix_UI.shape
    )
    matrix_IU = matrix_UI.T.tocsr()
    for _ in range(rounds):
        _solve(matrix_UI, user_UD, item_ID, alpha, l2)
        _solve(matrix_IU, item_ID, user_UD, alpha, l2)
    return Factors(user_UD, item_ID)


def _solve(
    matrix_RC: csr_matrix, row_RD: torch.Tensor, column_CD: torch.Tensor, alpha: float, l2: float
) -> None:
    """Replaces each row's vector by the one that fits its entries best, given the columns' vectors."""
    dim = column_CD.shape[1]
    gram_DD = column_CD.T @ column_CD + l2 * torch.eye(dim)
    for row_B, at_BN, has_BN in _batches(matrix_RC.indptr, dim):
        seen_BND = column_CD[torch.from_numpy(matrix_RC.indices[at_BN])] * torch.from_numpy(has_BN)[..., None]
        gram_BDD = torch.baddbmm(gram_DD, seen_BND.mT, seen_BND, alpha=alpha)
        row_RD[torch.from_numpy(row_B)] = torch.linalg.solve(gram_BDD, (1 + alpha) * seen_BND.sum(1))


def _batches(start_R: np.ndarray, dim: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The rows, those with most entries first; where the entries of each are, and which of these it has.

    Rows of a batch have about as many entries, so that little is filled up.
    """
    count_R = np.diff(start_R)
    order_R = np.argsort(-count_R, kind="stable")
    first = 0
    while first < len(order_R):
        longest = count_R[order_R[first]]
        row_B = order_R[first : first + max(1, _BATCH // max(longest, dim))]
        at_N = np.arange(longest)
        has_BN = at_N < count_R[row_B, None]
        yield row_B, np.where(has_BN, start_R[row_B, None] + at_N, 0), has_BN
        first += len(row_B)
