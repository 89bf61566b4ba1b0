"""ALS: a matrix factorization that is solved row by row.

Legend: R rows (users or items), C columns (items or users), E entries of the matrix, B rows of a batch,
N entries of its longest row, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix

from adar_ray.baselines.item_to_item import to_matrix
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.vectors import Vectors

_BATCH = 1 << 15  # vectors


def als(
    observed: UserItems,
    dim: int = 64,
    alpha: float = 1.0,
    l2: float = 0.01,
    rounds: int = 15,
    seed: int = 0,
) -> Vectors:
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
    return Vectors(user_UD, item_ID)


def _solve(
    matrix_RC: csr_matrix, row_RD: torch.Tensor, column_CD: torch.Tensor, alpha: float, l2: float
) -> None:
    """Replaces each row's vector by the one that fits its entries best, given the columns' vectors.

    A row with fewer entries than dimensions is solved for the entries' weights instead (Woodbury's identity).
    """
    D = column_CD.shape[1]
    gram_DD = column_CD.T @ column_CD + l2 * torch.eye(D)
    near_CD = torch.linalg.solve(gram_DD.double(), column_CD.T.double()).T.float()
    # A last column of zeros, which fills rows up.
    column_CD, near_CD = (torch.cat([each_CD, each_CD.new_zeros(1, D)]) for each_CD in (column_CD, near_CD))
    for row_B, at_BN in _batches(matrix_RC, D):
        seen_BND, N = column_CD[at_BN], at_BN.shape[1]
        if N < D:
            near_BND = near_CD[at_BN]
            system_BNN = torch.baddbmm(torch.eye(N), seen_BND, near_BND.mT, alpha=alpha)
            weight_BN = torch.linalg.solve(system_BNN, torch.ones(at_BN.shape))
            vector_BD = (weight_BN[:, None] @ near_BND)[:, 0]
        else:
            system_BDD = torch.baddbmm(gram_DD, seen_BND.mT, seen_BND, alpha=alpha)
            vector_BD = torch.linalg.solve(system_BDD, seen_BND.sum(1))
        row_RD[row_B] = (1 + alpha) * vector_BD


def _batches(matrix_RC: csr_matrix, dim: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows `[B]`, and the columns of their entries `[B, N]`, filled up with C.

    Those with most entries come first, so that little is filled up.
    """
    start_R, count_R = matrix_RC.indptr[:-1], np.diff(matrix_RC.indptr)
    column_E = np.append(matrix_RC.indices, matrix_RC.shape[1])
    order_R, first = np.argsort(-count_R, kind="stable"), 0
    while first < len(order_R):
        longest = count_R[order_R[first]]
        row_B = order_R[first : first + max(1, _BATCH // max(longest, dim))]
        at_N = np.arange(longest)
        entry_BN = np.where(at_N < count_R[row_B, None], start_R[row_B, None] + at_N, len(column_E) - 1)
        yield torch.from_numpy(row_B), torch.from_numpy(column_E[entry_BN])
        first += len(row_B)
