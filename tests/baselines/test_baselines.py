"""The baselines, against what their papers say in so many words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from adar_ray.baselines import item_to_item
from adar_ray.baselines.als import als
from adar_ray.baselines.item_to_item import EASE_ITEMS, ease, item_knn
from adar_ray.baselines.names import BASELINES
from adar_ray.errors import AdarError
from adar_ray.interactions.user_items import UserItems
from adar_ray.ranking.top_items import top_items

USERS, ITEMS = 30, 12


@pytest.fixture
def matrix_UI() -> np.ndarray:
    matrix_UI = (np.random.default_rng(0).random((USERS, ITEMS)) < 0.3).astype(np.float32)
    matrix_UI[:, 0] = 0  # an item that nobody has
    matrix_UI[0] = 0  # a user who has nothing
    return matrix_UI


def observed(matrix_UI: np.ndarray) -> UserItems:
    return UserItems(*torch.from_numpy(matrix_UI).nonzero().T, *matrix_UI.shape)


def scores(model: Any, users: int = USERS, items: int = ITEMS) -> np.ndarray:
    """The scores of all items, which all users share."""
    user_BD = model.users({"user": torch.arange(users)})
    return model.score(user_BD, model.items(torch.arange(items))[None]).numpy()


def test_item_knn_sums_the_cosines_of_nearest_neighbors(matrix_UI: np.ndarray) -> None:
    length_I = np.maximum(np.linalg.norm(matrix_UI, axis=0), 1)
    cosine_II = matrix_UI.T @ matrix_UI / np.outer(length_I, length_I)
    np.fill_diagonal(cosine_II, 0)
    scores_UI = scores(item_knn(observed(matrix_UI), neighbors=ITEMS))
    np.testing.assert_allclose(scores_UI, matrix_UI @ cosine_II, rtol=1e-5, atol=1e-6)
    for item, row in enumerate(cosine_II):  # of each item, all but the three nearest go
        row[np.argsort(-row, kind="stable")[3:]] = 0  # of equal ones, the first stay
        assert np.count_nonzero(row) == 3 or item == 0
    scores_UI = scores(item_knn(observed(matrix_UI), neighbors=3))
    np.testing.assert_allclose(scores_UI, matrix_UI @ cosine_II.T, rtol=1e-5, atol=1e-6)


def test_item_knn_takes_items_block_by_block(matrix_UI: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_UI = scores(item_knn(observed(matrix_UI), neighbors=3))
    monkeypatch.setattr(item_to_item, "_BLOCK", 5 * ITEMS)
    np.testing.assert_array_equal(scores(item_knn(observed(matrix_UI), neighbors=3)), whole_UI)


def test_ease_is_the_least_squares_of_an_item_on_all_others(matrix_UI: np.ndarray) -> None:
    scores_UI = scores(ease(observed(matrix_UI), l2=2.0))
    for item in range(ITEMS):
        others_UI = np.delete(matrix_UI, item, axis=1).astype(np.float64)
        ridge = others_UI.T @ others_UI + 2.0 * np.eye(ITEMS - 1)
        expected_U = others_UI @ np.linalg.solve(ridge, others_UI.T @ matrix_UI[:, item])
        np.testing.assert_allclose(scores_UI[:, item], expected_U, rtol=1e-3, atol=1e-4)


def test_ease_refuses_more_items_than_it_can_invert(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.empty(0, dtype=torch.int64)
    with pytest.raises(AdarError, match=r"^ease: .* too long with 20,001; it takes at most 20,000 items$"):
        ease(UserItems(nothing, nothing, 1, EASE_ITEMS + 1))
    monkeypatch.setattr(item_to_item, "usable_memory", lambda: 10**9)
    with pytest.raises(AdarError, match=r"^ease: takes 1.2 GB .* with 10,000 items, .* machine has 1.0 GB$"):
        ease(UserItems(nothing, nothing, 1, 10_000))


def test_als_comes_to_rest_where_its_loss_has_no_slope(matrix_UI: np.ndarray) -> None:
    scores_UI = scores(als(observed(matrix_UI), dim=ITEMS, alpha=5.0, l2=0.5, rounds=200))
    # With as many dimensions as items, the loss is one of the scores, penalized by their nuclear norm: its
    # slope has no singular value above the weight of the penalty, which those of the scores' own space reach.
    slope_UI = (1 + 5.0 * matrix_UI) * (scores_UI - matrix_UI)
    left, value, right = np.linalg.svd(scores_UI)
    rank = int((value > 1e-3).sum())
    assert np.linalg.norm(slope_UI, 2) == pytest.approx(0.5, rel=1e-2)
    for at in range(rank):
        assert left[:, at] @ slope_UI @ right[at] == pytest.approx(-0.5, rel=1e-2)


def test_als_solves_in_batches_what_it_would_solve_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items, dim, alpha, l2, generator = 90, 40, 8, 2.0, 0.1, np.random.default_rng(3)
    # From users with nothing to users with almost everything.
    matrix_UI = (generator.random((users, items)) < np.linspace(0, 0.9, users)[:, None]).astype(np.float32)
    generator = np.random.default_rng(5)
    user_UD, item_ID = (generator.normal(0, 0.01, (rows, dim)) for rows in matrix_UI.shape)
    for _ in range(4):
        for vectors, others, seen in ((user_UD, item_ID, matrix_UI), (item_ID, user_UD, matrix_UI.T)):
            gram_DD = others.T @ others + l2 * np.eye(dim)
            for row, has in enumerate(seen > 0):
                left_DD = gram_DD + alpha * others[has].T @ others[has]
                vectors[row] = np.linalg.solve(left_DD, (1 + alpha) * others[has].sum(0))
    for batch in (1, 300, 1 << 15):  # a row at a time, a few, all
        monkeypatch.setattr("adar_ray.baselines.als._BATCH", batch)
        model = als(observed(matrix_UI), dim, alpha, l2, rounds=4, seed=5)
        np.testing.assert_allclose(scores(model, users, items), user_UD @ item_ID.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_ranked_as_a_model_is(name: str, matrix_UI: np.ndarray) -> None:
    seen = observed(matrix_UI)
    model = BASELINES[name].build(seen)
    scores_UI = scores(model)
    if name == "popularity":
        np.testing.assert_array_equal(scores_UI, np.tile(matrix_UI.sum(0), (USERS, 1)))
    item_UK = torch.arange(ITEMS).expand(USERS, -1)  # the same items, as if each user had others
    own_UK = model.score(model.users({"user": torch.arange(USERS)}), model.items(item_UK)).numpy()
    np.testing.assert_allclose(own_UK, scores_UI, rtol=1e-5, atol=1e-6)
    scores_UI = np.where(matrix_UI > 0, -np.inf, scores_UI)
    ((user_B, item_Bk, score_Bk),) = top_items(model, torch.arange(USERS), seen, 3, ITEMS)
    assert user_B.tolist() == list(range(USERS))
    for user, items, best in zip(user_B.tolist(), item_Bk.tolist(), score_Bk.tolist(), strict=True):
        np.testing.assert_allclose(best, scores_UI[user, items], rtol=1e-4, atol=1e-6)
        order = sorted(range(ITEMS), key=lambda item: (-scores_UI[user, item], item))
        np.testing.assert_allclose(best, scores_UI[user, order[:3]], rtol=1e-4, atol=1e-6)
        if name == "popularity":
            assert items == order[:3]
