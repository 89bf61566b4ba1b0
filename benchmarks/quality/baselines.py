"""What every model has to beat: popularity, ItemKNN, EASE^R and ALS, at their usual settings.

Each takes the training interactions as a matrix of users by items, and returns a function that gives users'
scores of all items. Legend: U users, I items, B users of a tile, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from adar_ray.interactions.user_items import UserItems

Scores = Callable[[np.ndarray], np.ndarray]
"""Scores `[B, I]` of users `[B]`."""

_BLOCK = 2048


def popularity(matrix_UI: csr_matrix) -> Scores:
    """An item's number of interactions."""
    count_I = np.asarray(matrix_UI.sum(0), np.float32).ravel()
    return lambda user_B: np.broadcast_to(count_I, (len(user_B), len(count_I)))


def item_knn(matrix_UI: csr_matrix, neighbors: int = 100) -> Scores:
    """Sarwar et al., WWW 2001: the sum of the cosines of an item with those the user has, over the item's
    nearest neighbors."""
    length_I = np.sqrt(np.maximum(np.asarray(matrix_UI.sum(0), np.float32).ravel(), 1))
    columns_IU, blocks = matrix_UI.T.tocsr(), []
    for start in range(0, len(length_I), _BLOCK):
        cosine = np.asarray((columns_IU[start : start + _BLOCK] @ matrix_UI).todense(), np.float32)
        cosine /= length_I * length_I[start : start + _BLOCK, None]
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = 0
        if cosine.shape[1] > neighbors:
            cosine[cosine < -np.partition(-cosine, neighbors - 1)[:, neighbors - 1 : neighbors]] = 0
        blocks.append(csr_matrix(cosine))
    nearest_II = vstack(blocks).T.tocsr()
    return lambda user_B: np.asarray((matrix_UI[user_B] @ nearest_II).todense(), np.float32)


def ease(matrix_UI: csr_matrix, l2: float = 250.0) -> Scores:
    """Steck, WWW 2019: the linear model of items on items with a zero diagonal that fits the matrix best."""
    gram_II = np.asarray((matrix_UI.T @ matrix_UI).todense(), np.float32)
    gram_II[np.diag_indices_from(gram_II)] += l2
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(torch.from_numpy(gram_II))).numpy()
    inverse_II /= -np.diag(inverse_II)
    np.fill_diagonal(inverse_II, 0)
    return lambda user_B: matrix_UI[user_B] @ inverse_II


def als(
    matrix_UI: csr_matrix,
    dim: int = 64,
    alpha: float = 1.0,
    l2: float = 0.01,
    rounds: int = 15,
    seed: int = 0,
) -> Scores:
    """Hu, Koren and Volinsky, ICDM 2008: least squares over all pairs, those seen weighing `1 + alpha`."""
    generator = np.random.default_rng(seed)
    user_UD, item_ID = (generator.normal(0, 0.01, (rows, dim)).astype(np.float32) for rows in matrix_UI.shape)
    matrix_IU = matrix_UI.T.tocsr()
    for _ in range(rounds):
        _solve(matrix_UI, user_UD, item_ID, alpha, l2)
        _solve(matrix_IU, item_ID, user_UD, alpha, l2)
    return lambda user_B: user_UD[user_B] @ item_ID.T


def _solve(matrix: csr_matrix, vectors: np.ndarray, others: np.ndarray, alpha: float, l2: float) -> None:
    gram_DD = others.T @ others + l2 * np.eye(others.shape[1], dtype=np.float32)
    for row in range(matrix.shape[0]):
        seen = others[matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]]
        vectors[row] = np.linalg.solve(gram_DD + alpha * (seen.T @ seen), (1 + alpha) * seen.sum(0))


BASELINES: dict[str, Callable[[csr_matrix], Scores]] = {
    "popularity": popularity,
    "itemknn": item_knn,
    "ease": ease,
    "als": als,
    "als-10": partial(als, alpha=10.0, l2=0.1),
}


class Baseline(nn.Module):
    """A baseline as a base model, for the library's own ranking."""

    def __init__(self, name: str, observed: UserItems) -> None:
        super().__init__()
        user_E, item_E = (ids.numpy() for ids in observed.pairs())
        ones_E, shape = np.ones(len(user_E), np.float32), (observed.n_users, observed.n_items)
        self.scores = BASELINES[name](csr_matrix((ones_E, (user_E, item_E)), shape=shape))

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.scores(batch["user"].numpy())))

    def items(self, item: torch.Tensor) -> torch.Tensor:
        return item[..., None]

    def score(self, user_BD: torch.Tensor, item_BKD: torch.Tensor) -> torch.Tensor:
        """A user's vector has his scores, and an item's says which of them is its own."""
        return user_BD[:, item_BKD.flatten()]
