"""ItemKNN and EASE^R: an item's score is a weighted sum over the items that the user has.

Legend: B users of a tile, U users, I items, E (user, item) pairs, K items per row, D dimensions: of a user
the scores of all items, of an item one, which tells whose score it is; R rows and C columns of any matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from adar_ray.errors import AdarError, gigabytes
from adar_ray.interactions.user_items import UserItems
from adar_ray.process import usable_memory

EASE_ITEMS = 20_000
"""With these EASE^R takes 5 GiB, and a quarter of an hour on one core."""

_BLOCK = 1 << 25  # similarities at a time: 128 MiB


class TooLargeError(AdarError):
    """A baseline that nobody would wait for, or that does not fit into memory."""


class ItemToItem(nn.Module):
    """Recommends by weights of items on items, on a CPU.

    Args:
        matrix_UI: who has which item.
        weight_II: what having the item of the row adds to the score of that of the column.
    """

    def __init__(self, matrix_UI: csr_matrix, weight_II: csr_matrix | np.ndarray) -> None:
        super().__init__()
        self.matrix_UI, self.weight_II = matrix_UI, weight_II

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        score_BI = self.matrix_UI[batch["user"].numpy()] @ self.weight_II
        return torch.from_numpy(score_BI if isinstance(score_BI, np.ndarray) else score_BI.toarray())

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return item[..., None]

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        return user_BD.gather(1, item_BKD[..., 0].expand(len(user_BD), -1))


def to_matrix(observed: UserItems) -> csr_matrix:
    """The pairs as a matrix of ones, `[U, I]`."""
    user_E, item_E = (ids.numpy() for ids in observed.pairs())
    ones_E = np.ones(len(user_E), np.float32)
    return csr_matrix((ones_E, (user_E, item_E)), shape=(observed.n_users, observed.n_items))


def item_knn(observed: UserItems, neighbors: int = 100) -> ItemToItem:
    """Sarwar et al., WWW 2001: the sum of the cosines of an item with those the user has, over the item's
    nearest neighbors."""
    matrix_UI = to_matrix(observed)
    length_I = np.sqrt(np.maximum(np.asarray(matrix_UI.sum(0), np.float32).ravel(), 1))
    columns_IU, blocks, rows = matrix_UI.T.tocsr(), [], max(1, _BLOCK // len(length_I))
    for start in range(0, len(length_I), rows):
        cosine = (columns_IU[start : start + rows] @ matrix_UI).toarray()
        cosine /= length_I * length_I[start : start + rows, None]
        row = np.arange(len(cosine))
        cosine[row, start + row] = 0
        if cosine.shape[1] > neighbors:
            _keep_largest(cosine, neighbors)
        blocks.append(csr_matrix(cosine))
    return ItemToItem(matrix_UI, vstack(blocks).T.tocsr())


def _keep_largest(value_RC: np.ndarray, count: int) -> None:
    """Sets all but the largest of each row to 0; of equal ones, the first stay."""
    least_R1 = -np.partition(-value_RC, count - 1)[:, count - 1 : count]
    is_least_RC = value_RC == least_R1
    room_R1 = count - (value_RC > least_R1).sum(1, keepdims=True)
    value_RC[(value_RC < least_R1) | (is_least_RC & (is_least_RC.cumsum(1) > room_R1))] = 0


def ease(observed: UserItems, l2: float = 250.0) -> ItemToItem:
    """Steck, WWW 2019: the linear model of items on items with a zero diagonal that fits the matrix best.

    Raises:
        TooLargeError: there are more than `EASE_ITEMS`, or too many for the memory of this machine.
    """
    _check_ease(observed.n_items)
    matrix_UI = to_matrix(observed)
    gram_II = (matrix_UI.T @ matrix_UI).toarray()
    gram_II[np.diag_indices_from(gram_II)] += l2
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram_II))).numpy()
    inverse_II /= -np.diag(inverse_II)
    np.fill_diagonal(inverse_II, 0)
    return ItemToItem(matrix_UI, inverse_II)


def _check_ease(items: int) -> None:
    if items > EASE_ITEMS:
        raise TooLargeError(
            f"ease: inverts a matrix of items by items, which takes too long with {items:,}; "
            f"it takes at most {EASE_ITEMS:,} items"
        )
    needed, has = 3 * 4 * items**2, usable_memory()  # the matrix, its factor, its inverse
    if has is not None and needed > has:
        raise TooLargeError(
            f"ease: takes {gigabytes(needed)} of memory with {items:,} items, and this machine has "
            f"{gigabytes(has)}"
        )
