"""Exact rankings against brute force, and figures that add up the same over any workers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.process import torch_threads
from adar_ray.ranking import top_items as ranking
from adar_ray.ranking.tally import Ranked, Tally, rank_users
from adar_ray.ranking.top_items import TILE, top_items


def tallied(model: nn.Module, seen: UserItems, truth: UserItems, ks: list[int], **options) -> Tally:
    rankings = rank_users(model, seen, truth, ks, **options)
    return Tally(truth.n_items, ks).add_all(rankings)


class Table(nn.Module):
    """A base model whose scores are given: each user's vector holds the scores of all items."""

    def __init__(self, score_UI: torch.Tensor) -> None:
        super().__init__()
        self.score_UI = score_UI

    def users(self, batch):
        return self.score_UI[batch["user"]]

    def items(self, item):
        return torch.eye(self.score_UI.shape[1])[item]

    def score(self, user_BD, item_BKD):
        return user_BD @ item_BKD[0].T


class Values(Table):
    """The same, where a table of unit vectors would be too large: an item's vector is its id."""

    def items(self, item):
        return item.double()[:, None]

    def score(self, user_BD, item_BKD):
        return user_BD[:, item_BKD[0, :, 0].long()]


class Factors(nn.Module):
    """Matrix factorization with random vectors, whose scores are rounded."""

    def __init__(self, n_users: int, n_items: int, dim: int = 64) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.user, self.item = (torch.randn(n, dim, generator=draw) for n in (n_users, n_items))

    def users(self, batch):
        return self.user[batch["user"]]

    def items(self, item):
        return self.item[item]

    def score(self, user_BD, item_BKD):
        return user_BD @ item_BKD[0].T


def tied_scores(n_users: int, n_items: int, levels: int = 4) -> torch.Tensor:
    draw = torch.Generator().manual_seed(n_users + n_items)
    return torch.randint(levels, (n_users, n_items), generator=draw).float()


def random_pairs(n_users: int, n_items: int, share: float, seed: int = 1) -> UserItems:
    happened = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed)) < share
    return UserItems(*happened.nonzero().T, n_users, n_items)


def grid(pairs: UserItems) -> np.ndarray:
    happened = np.zeros((pairs.n_users, pairs.n_items), dtype=bool)
    happened[tuple(column.numpy() for column in pairs.pairs())] = True
    return happened


def brute_force(score_UI: torch.Tensor, seen: UserItems) -> tuple[np.ndarray, np.ndarray]:
    """Every user's items, best first, equal scores by item id; seen ones at the end with -inf."""
    score = np.where(grid(seen), -np.inf, score_UI.numpy())
    order = np.argsort(-score, axis=1, kind="stable")
    return order, np.take_along_axis(score, order, 1)


def rank(model: nn.Module, user: torch.Tensor, seen: UserItems, k: int) -> tuple[np.ndarray, np.ndarray]:
    tiles = list(top_items(model, user, seen, k, seen.n_items))
    assert torch.equal(torch.cat([user_B for user_B, _, _ in tiles]), user)
    return tuple(torch.cat([tile[part] for tile in tiles]).numpy() for part in (1, 2))


def cut_into(monkeypatch: pytest.MonkeyPatch, chunk: int, panel: int, block: int) -> None:
    for name, size in {"CHUNK": chunk, "PANEL": panel, "BLOCK": block}.items():
        monkeypatch.setattr(ranking, name, size)


@pytest.mark.parametrize("sizes", [(7, 1, 1), (12, 4, 2), (16, 8, 8), (24, 8, 4), (50, 6, 3), (1000, 20, 5)])
@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("levels", [1, 4, 50])
def test_rankings_full_of_ties_are_those_of_a_stable_sort_however_they_are_cut(monkeypatch, sizes, k, levels):
    cut_into(monkeypatch, *sizes)
    score_UI, seen = tied_scores(40, 50, levels), random_pairs(40, 50, 0.2)
    item, score = rank(Table(score_UI), torch.arange(40), seen, k)
    best_item, best_score = brute_force(score_UI, seen)
    assert (item == best_item[:, :k]).all()
    assert (score == best_score[:, :k]).all()


def test_a_catalog_of_many_panels_with_the_sizes_in_use():
    n_items = 2 * ranking.PANEL + ranking.BLOCK + 3
    score_UI, seen = tied_scores(5, n_items, 2000), random_pairs(5, n_items, 0.2)
    item, score = rank(Values(score_UI), torch.arange(5), seen, 20)
    best_item, best_score = brute_force(score_UI, seen)
    assert (item == best_item[:, :20]).all()
    assert (score == best_score[:, :20]).all()


def test_where_all_scores_are_equal_the_ids_decide():
    item, _ = rank(Table(torch.zeros(2, 9)), torch.arange(2), random_pairs(2, 9, 0), 4)
    assert item.tolist() == [[0, 1, 2, 3]] * 2


def test_users_in_several_tiles_in_any_order_and_repeated():
    n_users = 2 * TILE + 30
    score_UI, seen = tied_scores(n_users, 25), random_pairs(n_users, 25, 0.3)
    user = torch.randint(n_users, (3 * TILE + 5,), generator=torch.Generator().manual_seed(0))
    item, score = rank(Table(score_UI), user, seen, 6)
    best_item, best_score = brute_force(score_UI, seen)
    assert (item == best_item[user, :6]).all()
    assert (score == best_score[user, :6]).all()


def test_no_seen_item_is_ranked_however_good():
    score_UI = torch.arange(12.0).repeat(5, 1)
    seen = UserItems(torch.tensor([0, 0, 3]), torch.tensor([11, 9, 11]), 5, 12)
    item, _ = rank(Table(score_UI), torch.arange(5), seen, 3)
    assert item.tolist() == [[10, 8, 7], [11, 10, 9], [11, 10, 9], [10, 9, 8], [11, 10, 9]]


@pytest.mark.parametrize("sizes", [(7, 1, 1), (16, 8, 8), (1000, 20, 5)])
def test_only_the_items_asked_for_are_ranked_with_the_scores_they_have_among_all(monkeypatch, sizes):
    cut_into(monkeypatch, *sizes)
    model, seen, user = Factors(40, 50), random_pairs(40, 50, 0.2), torch.arange(40)
    among_I = torch.rand(50, generator=torch.Generator().manual_seed(3)) < 0.3
    ((_, all_item, all_score),) = top_items(model, user, seen, 50, 50)
    ((_, item, score),) = top_items(model, user, seen, 50, 50, among_I=among_I)
    for row in range(40):
        stays = among_I[all_item[row]] & (all_score[row] > -torch.inf)
        count = int(stays.sum())
        assert torch.equal(item[row, :count], all_item[row, stays])
        assert torch.equal(score[row, :count], all_score[row, stays])
        assert (score[row, count:] == -torch.inf).all()


class Popularity(Factors):
    """Scores the same for every user, as a view of what it keeps."""

    def score(self, user_BD, item_BKD):
        return torch.arange(1.0, item_BKD.shape[1] + 1).expand(len(user_BD), -1)


def test_leaving_out_one_users_items_leaves_the_others_alone():
    seen = UserItems(torch.tensor([0]), torch.tensor([4]), 2, 5)
    items, _ = rank(Popularity(2, 5), torch.arange(2), seen, 2)
    assert items.tolist() == [[3, 2], [4, 3]]


@pytest.mark.parametrize("chunk", [4, 100])
def test_a_k_beyond_the_catalog_gives_the_whole_catalog(monkeypatch, chunk):
    cut_into(monkeypatch, chunk, 4, 2)
    score_UI, seen = tied_scores(6, 9), random_pairs(6, 9, 0)
    item, _ = rank(Table(score_UI), torch.arange(6), seen, 50)
    assert item.tolist() == brute_force(score_UI, seen)[0].tolist()


@pytest.mark.parametrize("chunk", [4, 100])
def test_fewer_unseen_items_than_k_leave_the_rest_at_minus_infinity(monkeypatch, chunk):
    cut_into(monkeypatch, chunk, 4, 2)
    seen = UserItems(torch.tensor([0] * 7 + [1] * 9), torch.tensor([*range(2, 9), *range(9)]), 3, 9)
    item, score = rank(Table(tied_scores(3, 9)), torch.arange(3), seen, 5)
    assert np.isneginf(score).sum(1).tolist() == [3, 5, 0]
    assert np.isneginf(score[0]).tolist() == [False, False, True, True, True]
    assert set(item[0, :2]) == {0, 1}


def test_no_users_give_no_tiles():
    assert (
        list(top_items(Factors(3, 5), torch.tensor([], dtype=torch.int64), random_pairs(3, 5, 0), 2, 5)) == []
    )


def test_a_users_scores_do_not_depend_on_who_else_is_asked_for():
    model, seen = Factors(700, 300), random_pairs(700, 300, 0.1)
    all_items, all_scores = rank(model, torch.arange(700), seen, 10)
    for user in (
        torch.tensor([5]),
        torch.tensor([699, 0, 300]),
        torch.arange(700).flip(0),
        torch.arange(100, 400),
    ):
        item, score = rank(model, user, seen, 10)
        assert (item == all_items[user]).all()
        assert (score == all_scores[user]).all()  # to the last bit


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_tiles_and_change_nothing(threads):
    model, seen = Factors(5 * TILE + 9, 300), random_pairs(5 * TILE + 9, 300, 0.1)
    user = torch.randperm(5 * TILE + 9, generator=torch.Generator().manual_seed(0))
    alone = rank(model, user, seen, 10)
    with torch_threads(threads):
        shared = rank(model, user, seen, 10)
        assert torch.get_num_threads() == threads
        next(top_items(model, user, seen, 10, 300))  # and no more
        assert torch.get_num_threads() == threads
    for mine, theirs in zip(alone, shared, strict=True):
        assert (mine == theirs).all()


def test_what_a_model_raises_in_a_thread_arrives():
    class Broken(Factors):
        def score(self, user_BD, item_BKD):
            raise ValueError("broken")

    with torch_threads(2), pytest.raises(ValueError, match="broken"):
        list(top_items(Broken(3 * TILE, 5), torch.arange(3 * TILE), random_pairs(3 * TILE, 5, 0), 2, 5))


class MeanOfHistory(nn.Module):
    """A sequential model: at each position the user is the mean of the vectors of his items up to there."""

    def __init__(self, n_items: int, dim: int = 8) -> None:
        super().__init__()
        self.item = torch.randn(n_items, dim, generator=torch.Generator().manual_seed(0))

    def users(self, batch):
        there_BL = (batch["history"] >= 0).float()
        vector_BLD = self.item[batch["history"].clamp_min(0)] * there_BL[..., None]
        return vector_BLD.cumsum(1) / there_BL.cumsum(1).clamp_min(1)[..., None]

    def items(self, item):
        return self.item[item]

    def score(self, user_BD, item_BKD):
        return user_BD @ item_BKD[0].T


def walks(n_users: int, n_items: int) -> list[list[int]]:
    draw = np.random.default_rng(n_users)
    return [draw.integers(0, n_items, draw.integers(0, 7)).tolist() for _ in range(n_users)]


def test_sequential_users_are_ranked_for_by_the_end_of_their_histories():
    n_users, n_items, length = TILE + 44, 60, 4
    own, model, seen = walks(n_users, n_items), MeanOfHistory(n_items), random_pairs(n_users, n_items, 0.2)
    pairs = torch.tensor([(user, item) for user, items in enumerate(own) for item in items])
    history = Histories(pairs[:, 0], pairs[:, 1], n_users, length)
    latest = [items[-length:] for items in own]
    mean_UD = torch.stack([model.item[items].sum(0) / max(len(items), 1) for items in latest])
    score_UI = mean_UD @ model.item.T
    user = torch.randperm(n_users, generator=torch.Generator().manual_seed(0))
    tiles = list(top_items(model, user, seen, 5, n_items, history))
    expected = np.sort(np.where(grid(seen), -np.inf, score_UI.numpy()), axis=1)[:, ::-1][user, :5]
    np.testing.assert_allclose(torch.cat([score for _, _, score in tiles]), expected, atol=1e-5)

    truth = random_pairs(n_users, n_items, 0.05, seed=2)
    metrics = tallied(model, seen, truth, [5], history=history).metrics(seen.item_counts())
    fixed = tallied(Table(score_UI), seen, truth, [5]).metrics(seen.item_counts())
    assert metrics["recall@5"] == pytest.approx(fixed["recall@5"], rel=1e-3)
    assert metrics["recall@5"] > 0


# Evaluation


def test_metrics_are_means_over_users_with_truth():
    score_UI = torch.arange(6.0).flip(0).repeat(4, 1)  # everybody likes 0 best, then 1, ...
    seen = UserItems(torch.tensor([0, 2]), torch.tensor([0, 5]), 4, 6)
    # User 0 has seen item 0; user 1 nothing, for want of training; user 2 has no truth.
    truth = UserItems(torch.tensor([0, 1, 1, 3]), torch.tensor([1, 1, 5, 4]), 4, 6)
    metrics = tallied(Table(score_UI), seen, truth, [1, 2]).metrics(seen.item_counts())
    assert metrics["recall@1"] == pytest.approx((1 + 0 + 0) / 3)
    assert metrics["hit_rate@2"] == pytest.approx((1 + 1 + 0) / 3)
    assert metrics["recall@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metrics["mrr@2"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_coverage_and_popularity_by_hand():
    score_UI = torch.arange(6.0).flip(0).repeat(3, 1)
    seen = UserItems(torch.tensor([0, 1]), torch.tensor([0, 3]), 3, 6)
    truth = UserItems(torch.tensor([0, 1, 2]), torch.tensor([5, 5, 5]), 3, 6)
    # Shown at 2: items 1 and 2 to user 0, items 0 and 1 to users 1 and 2.
    metrics = tallied(Table(score_UI), seen, truth, [1, 2]).metrics(torch.tensor([10, 20, 60, 0, 0, 0]))
    assert metrics["coverage@1"] == pytest.approx(2 / 6)
    assert metrics["coverage@2"] == pytest.approx(3 / 6)
    assert metrics["popularity@1"] == pytest.approx((20 + 10 + 10) / 3)
    assert metrics["popularity@2"] == pytest.approx((20 + 60 + 10 + 20 + 10 + 20) / 6)


def test_items_that_only_fill_up_a_row_are_neither_shown_nor_hits():
    seen = UserItems(torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2]), 1, 4)
    truth = UserItems(torch.tensor([0, 0]), torch.tensor([1, 3]), 1, 4)  # item 1 is seen: never to be found
    metrics = tallied(Table(torch.zeros(1, 4)), seen, truth, [3]).metrics(torch.tensor([7, 7, 7, 2]))
    assert metrics["recall@3"] == 1 / 2
    assert metrics["coverage@3"] == 1 / 4
    assert metrics["popularity@3"] == 2


def test_metrics_of_a_larger_world_are_those_of_its_brute_force_rankings():
    n_users = TILE + 90
    score_UI, seen = tied_scores(n_users, 40, 9), random_pairs(n_users, 40, 0.3)
    truth = random_pairs(n_users, 40, 0.04, seed=2)
    order, score = brute_force(score_UI, seen)
    relevant = grid(truth)
    has_truth = relevant.any(1)
    hit = np.take_along_axis(relevant, order, 1) & (score > -np.inf)
    expected = ranking_metrics(
        torch.from_numpy(hit[has_truth][:, :10]), torch.from_numpy(relevant.sum(1)[has_truth]), [5, 10]
    )
    metrics = tallied(Table(score_UI), seen, truth, [5, 10]).metrics(seen.item_counts())
    assert 0 < has_truth.sum() < n_users
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value.mean().item(), abs=1e-12), name


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_tallies_add_up_to_exactly_the_tally_of_one_whoever_ranks_whom(workers):
    n_users = 3 * TILE
    model, seen = Factors(n_users, 60), random_pairs(n_users, 60, 0.2)
    truth = random_pairs(n_users, 60, 0.05, seed=2)
    alone = tallied(model, seen, truth, [5, 20])
    owner = torch.randint(workers, (n_users,), generator=torch.Generator().manual_seed(workers))
    user_E, item_E = truth.pairs()
    owned = (owner[user_E] == worker for worker in range(workers))
    truths = (UserItems(user_E[is_own_E], item_E[is_own_E], n_users, 60) for is_own_E in owned)
    total, *others = (tallied(model, seen, each, [5, 20]) for each in truths)
    for part in others:
        for mine, theirs in zip(total.tensors(), part.tensors(), strict=True):
            mine += theirs
    assert total.metrics(seen.item_counts()) == alone.metrics(seen.item_counts())
    assert int(alone.users) == int((truth.counts() > 0).sum())


def test_means_are_the_nearest_to_those_of_fractions():
    draw = torch.Generator().manual_seed(0)
    hit_Bk, relevant_B = (
        torch.rand(500, 7, generator=draw) < 0.3,
        torch.randint(7, 30, (500,), generator=draw),
    )
    metrics, tally = ranking_metrics(hit_Bk, relevant_B, [3, 7]), Tally(9, [3, 7])
    nothing = torch.zeros(500, 7, dtype=torch.int64)
    tally.add(Ranked(torch.arange(500), metrics, nothing, nothing > 0, hit_Bk))
    means = tally.metrics(torch.ones(9, dtype=torch.int64))
    for name, value_B in metrics.items():
        exact = sum(Fraction(value) for value in value_B.tolist()) / 500
        assert abs(Fraction(means[name]) - exact) <= Fraction(2**-60) + Fraction(math.ulp(float(exact)))


def test_a_catalog_smaller_than_k_is_evaluated():
    truth = UserItems(torch.tensor([0]), torch.tensor([2]), 1, 3)
    metrics = tallied(Table(torch.tensor([[3.0, 1.0, 2.0]])), random_pairs(1, 3, 0), truth, [2, 10]).metrics(
        torch.ones(3, dtype=torch.int64)
    )
    assert metrics["recall@2"] == metrics["recall@10"] == 1
    assert metrics["mrr@10"] == 1 / 2
    assert metrics["precision@10"] == pytest.approx(1 / 10)
    assert metrics["coverage@10"] == 1
