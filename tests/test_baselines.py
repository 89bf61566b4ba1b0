"""The baselines of the benchmarks, against what their papers say in so many words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from adar_ray.interactions.user_items import UserItems
from adar_ray.ranking.top_items import top_items
from benchmarks.quality.baselines import BASELINES, Baseline, als, ease, item_knn

USERS, ITEMS = 30, 12
ALL = np.arange(USERS)


@pytest.fixture
def matrix_UI() -> np.ndarray:
    matrix_UI = (np.random.default_rng(0).random((USERS, ITEMS)) < 0.3).astype(np.float32)
    matrix_UI[:, 0] = 0  # an item that nobody has
    return matrix_UI


def test_item_knn_sums_the_cosines_of_nearest_neighbors(matrix_UI: np.ndarray) -> None:
    length_I = np.maximum(np.linalg.norm(matrix_UI, axis=0), 1)
    cosine_II = matrix_UI.T @ matrix_UI / np.outer(length_I, length_I)
    np.fill_diagonal(cosine_II, 0)
    scores_UI = item_knn(csr_matrix(matrix_UI), neighbors=ITEMS)(ALL)
    np.testing.assert_allclose(scores_UI, matrix_UI @ cosine_II, rtol=1e-5, atol=1e-6)
    for item, row in enumerate(cosine_II):  # of each item, all but the three nearest go
        row[row < np.sort(row)[-3]] = 0
        assert np.count_nonzero(row) >= 3 or item == 0
    scores_UI = item_knn(csr_matrix(matrix_UI), neighbors=3)(ALL)
    np.testing.assert_allclose(scores_UI, matrix_UI @ cosine_II.T, rtol=1e-5, atol=1e-6)


def test_ease_is_the_least_squares_of_an_item_on_all_others(matrix_UI: np.ndarray) -> None:
    scores_UI = ease(csr_matrix(matrix_UI), l2=2.0)(ALL)
    for item in range(ITEMS):
        others_UI = np.delete(matrix_UI, item, axis=1).astype(np.float64)
        ridge = others_UI.T @ others_UI + 2.0 * np.eye(ITEMS - 1)
        expected_U = others_UI @ np.linalg.solve(ridge, others_UI.T @ matrix_UI[:, item])
        np.testing.assert_allclose(scores_UI[:, item], expected_U, rtol=1e-3, atol=1e-4)


def test_als_comes_to_rest_where_its_loss_has_no_slope(matrix_UI: np.ndarray) -> None:
    scores_UI = als(csr_matrix(matrix_UI), dim=ITEMS, alpha=5.0, l2=0.5, rounds=200)(ALL)
    # With as many dimensions as items, the loss is one of the scores, penalized by their nuclear norm: its
    # slope has no singular value above the weight of the penalty, which those of the scores' own space reach.
    slope_UI = (1 + 5.0 * matrix_UI) * (scores_UI - matrix_UI)
    left, value, right = np.linalg.svd(scores_UI)
    rank = int((value > 1e-3).sum())
    assert np.linalg.norm(slope_UI, 2) == pytest.approx(0.5, rel=1e-2)
    for at in range(rank):
        assert left[:, at] @ slope_UI @ right[at] == pytest.approx(-0.5, rel=1e-2)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_ranked_as_a_model_is(name: str, matrix_UI: np.ndarray) -> None:
    seen = UserItems(*torch.from_numpy(matrix_UI).nonzero().T, USERS, ITEMS)
    model = Baseline(name, seen)
    scores_UI = np.where(matrix_UI > 0, -np.inf, model.scores(ALL))
    ((user_B, item_Bk, score_Bk),) = top_items(model, torch.arange(USERS), seen, 3, ITEMS)
    assert user_B.tolist() == ALL.tolist()
    for user, items, scores in zip(user_B.tolist(), item_Bk.tolist(), score_Bk.tolist(), strict=True):
        order = sorted(range(ITEMS), key=lambda item: (-scores_UI[user, item], item))
        assert items == order[:3]
        np.testing.assert_allclose(scores, scores_UI[user, items], rtol=1e-4, atol=1e-6)
