"""Figures by group and of lists, against cases done by hand, closed forms and plain definitions."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from adar_ray.interactions.user_items import UserItems
from adar_ray.metrics import ranking_metrics
from adar_ray.ranking.groups import group_by
from adar_ray.ranking.lists import diversity, gini, miscalibration, novelty, sets_of_users
from adar_ray.ranking.own_metrics import own_metrics
from adar_ray.ranking.profile import Profile
from adar_ray.ranking.tally import ExactSums, Ranked, rank_users
from tests.ranking.test_top_items import Factors, grid, random_pairs

KS = [2, 5]

# Groups.


def test_equal_numbers_stay_together_and_groups_weigh_about_equally_much() -> None:
    groups = group_by(torch.tensor([5, 1, 1, 9, 3, 3, 7, 8]), 4)
    assert groups.bounds == [(1, 1), (3, 3), (5, 7), (8, 9)]
    assert groups.sizes == [2, 2, 2, 2]
    assert groups.of_N.tolist() == [2, 0, 0, 3, 1, 1, 2, 3]


def test_items_that_share_the_interactions_in_thirds() -> None:
    users_I = torch.tensor([0, 30, 10, 10, 10, 15, 15, 0])
    groups = group_by(users_I, 3, users_I)
    assert groups.bounds == [(0, 10), (15, 15), (30, 30)]
    assert groups.sizes == [5, 2, 1]
    assert torch.zeros(3, dtype=torch.int64).index_add_(0, groups.of_N, users_I).tolist() == [30, 30, 30]


@pytest.mark.parametrize("number", [0, 7])
def test_if_all_are_alike_there_is_one_group(number: int) -> None:
    number_N = torch.full((5,), number)
    for groups in (group_by(number_N, 4), group_by(number_N, 3, number_N)):
        assert (groups.bounds, groups.sizes) == ([(number, number)], [5])


def test_one_heavy_number_leaves_fewer_groups() -> None:
    groups = group_by(torch.tensor([1] * 90 + [2] * 10), 4)
    assert groups.bounds == [(1, 1), (2, 2)]
    assert groups.sizes == [90, 10]


# Lists.


def test_diversity_is_that_of_the_cosines_of_all_pairs() -> None:
    user_E, item_E = random_pairs(50, 12, 0.2).pairs()
    observed = UserItems(user_E[item_E != 7], item_E[item_E != 7], 50, 12)
    has_IU = grid(observed).T.astype(float)
    distance_II = np.nan_to_num(cdist(has_IU, has_IU, "cosine"), nan=1)  # item 7 has no users
    lists = [[0, 3, 7, 5], [7, 1, 2, 2], [4, 9, 0, 0], [6, 0, 0, 0]]
    lengths = [4, 3, 2, 1]
    valid_Bk = torch.arange(4) < torch.tensor(lengths)[:, None]
    found = diversity(sets_of_users(observed), torch.tensor(lists), valid_Bk, [3, 2, 9])
    for k in (2, 3, 9):
        expected: list[float] = [
            np.mean([distance_II[i, j] for i, j in combinations(items[: min(length, k)], 2)])
            for items, length in zip(lists, lengths, strict=True)
            if length > 1
        ]
        assert found[f"diversity@{k}"].tolist() == pytest.approx([*expected, math.nan], abs=1e-6, nan_ok=True)


def test_diversity_by_hand() -> None:
    # Items 0 and 1 have the same users, 0 and 2 share one of two, 2 and 3 none.
    observed = UserItems(torch.tensor([0, 1, 0, 1, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 2, 2, 3]), 3, 4)
    lists = torch.tensor([[0, 1], [0, 2], [2, 3]])
    found = diversity(sets_of_users(observed), lists, torch.ones_like(lists, dtype=torch.bool), [2])
    assert found["diversity@2"].tolist() == pytest.approx([0, 1 / 2, 1], abs=1e-6)


def test_diversity_is_measured_on_lists_of_users_at_equal_distances() -> None:
    """Of 600 users on 200: the lists of the first half are of items with the same users."""
    users = 600
    observed = UserItems(torch.tensor([0, 1, 0, 1, 2, 3]), torch.tensor([0, 0, 1, 1, 2, 3]), users, 4)
    truth = UserItems(torch.arange(users), torch.zeros(users, dtype=torch.int64), users, 4)
    item_Bk = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(users // 2, 0)
    hit_Bk, valid_Bk = item_Bk == 0, torch.ones_like(item_Bk, dtype=torch.bool)
    metrics = ranking_metrics(hit_Bk, truth.counts(), [2])
    profile = Profile(observed, truth, [2], {})
    for user_B in torch.arange(users).split(70):
        found = {name: value_B[user_B] for name, value_B in metrics.items()}
        profile.add(Ranked(user_B, found, item_Bk[user_B], valid_Bk[user_B], hit_Bk[user_B]))
    assert profile.metrics()["diversity@2"] == pytest.approx(0.5, abs=1e-6)


def test_miscalibration_against_the_entropy_of_scipy() -> None:
    group_I = torch.tensor([0, 0, 1, 2])
    history_BG = torch.tensor([[2, 1, 1], [0, 3, 1], [1, 1, 0], [0, 0, 0]])
    item_Bk = torch.tensor([[0, 2, 1, 3], [0, 1, 2, 3], [0, 2, 0, 0], [0, 1, 2, 3]])
    valid_Bk = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False], [True] * 4])
    found = miscalibration(history_BG, group_I, item_Bk, valid_Bk, [2, 4])

    def divergence(history: list[int], shown: list[int]) -> float:
        p, q = np.array(history) / sum(history), np.array(shown) / sum(shown)
        return float(entropy(p, 0.99 * q + 0.01 * p))

    expected = [divergence([2, 1, 1], [1, 1, 0]), divergence([0, 3, 1], [2, 0, 0]), 0, math.nan]
    assert expected[1] == pytest.approx(math.log(100))  # nothing in common
    assert found["miscalibration@2"].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    expected = [0, divergence([0, 3, 1], [2, 1, 1]), 0, math.nan]
    assert found["miscalibration@4"].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_novelty_by_hand() -> None:
    popularity_I = torch.tensor([8, 4, 1, 0])  # of 8 users: 0, 1, 3 and, as if there were one, 3 bits
    assert novelty(torch.tensor([3, 2, 1, 0]), popularity_I, 8) == pytest.approx((0 + 2 + 3) / 6)
    assert novelty(torch.tensor([0, 0, 0, 5]), popularity_I, 8) == pytest.approx(3)


def test_gini_is_half_the_relative_mean_difference() -> None:
    shown_I = torch.tensor([5, 0, 2, 9, 2, 0, 31])
    differences = (shown_I[:, None] - shown_I).abs().sum()
    assert gini(shown_I) == pytest.approx(float(differences / (2 * 7 * shown_I.sum())))
    assert gini(torch.full((9,), 4)) == 0
    assert gini(torch.tensor([0, 0, 6, 0])) == 3 / 4
    assert gini(torch.zeros(4, dtype=torch.int64)) == 0


# Sums.


def test_sums_of_any_size_are_exact_and_leave_out_who_does_not_count() -> None:
    value_B = torch.tensor([1e6 + 0.1, -0.3, torch.nan, 2.0**-59, -1e6], dtype=torch.float64)
    sums, one_by_one = ExactSums(["x", "y"], 2), ExactSums(["x", "y"], 2)
    group_B = torch.tensor([0, 0, 0, 0, 1])
    nobody_B = torch.full((5,), torch.nan)
    sums.add({"x": value_B, "y": nobody_B}, group_B)
    for at in (4, 2, 0, 3, 1):
        one_by_one.add({"x": value_B[[at]], "y": nobody_B[[at]]}, group_B[[at]])
    assert sums.means(0) == one_by_one.means(0)
    assert sums.means(0)["x"] == pytest.approx(math.fsum([1e6 + 0.1, -0.3, 2.0**-59]) / 3, rel=1e-15)
    assert sums.means(1) == {"x": -1e6}


# All of it.


@pytest.fixture
def world() -> tuple[Factors, UserItems, UserItems]:
    n_users, n_items = 300, 60
    return (
        Factors(n_users, n_items),
        random_pairs(n_users, n_items, 0.2),
        random_pairs(n_users, n_items, 0.05, 2),
    )


def profile_of(world: tuple[Factors, UserItems, UserItems]) -> Profile:
    model, seen, truth = world
    by_activity = {"activity": group_by(seen.counts(), 4)}
    profile = Profile(seen, truth, KS, by_activity, ["own"])
    own = {"own": lambda user_B, item_Bk, hit_Bk, relevant_B: 10.0 * hit_Bk.sum(1)}
    for ranked in rank_users(model, seen, truth, KS, own=own):
        profile.add(ranked)
    return profile


def test_groups_are_as_if_there_were_only_these_users_or_relevant_items(
    world: tuple[Factors, UserItems, UserItems], ranx_metrics
) -> None:
    model, seen, truth = world
    profile = profile_of(world)
    rankings = {}
    for user_B, _, item_Bk, _, _ in rank_users(model, seen, truth, KS):
        for user, items in zip(user_B.tolist(), item_Bk.tolist(), strict=True):
            rankings[user] = items
    relevant_UI, activity_U = grid(truth), grid(seen).sum(1)
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS]

    def expected(users: list[int], items: np.ndarray) -> dict[str, float]:
        wanted = {u: np.flatnonzero(relevant_UI[u] & items) for u in users}
        wanted = {u: found for u, found in wanted.items() if len(found)}
        scores = {f"u{u}": {f"i{i}": -float(rank) for rank, i in enumerate(rankings[u])} for u in wanted}
        return ranx_metrics(
            {f"u{u}": {f"i{i}": 1 for i in found} for u, found in wanted.items()}, scores, names
        ) | {"users": len(wanted)}

    everything = np.ones(60, dtype=bool)
    for (first, last), (users, metrics) in zip(
        profile.user_groups["activity"].bounds, profile.by_users("activity"), strict=True
    ):
        of_group = [u for u in rankings if first <= activity_U[u] <= last]
        found = {name: metrics[name] for name in names} | {"users": users}
        assert found == pytest.approx(expected(of_group, everything), abs=1e-6)
        hits = [10 * sum(relevant_UI[u][rankings[u][:5]]) for u in of_group]
        assert metrics["own@5"] == pytest.approx(np.mean(hits))

    shown = np.concatenate([items[:5] for items in rankings.values()])
    users_I = grid(seen).sum(0)
    for (first, last), (users, metrics) in zip(profile.item_groups.bounds, profile.by_items(), strict=True):
        items = (first <= users_I) & (users_I <= last)
        found = {name: metrics[name] for name in names} | {"users": users}
        assert found == pytest.approx(expected(list(rankings), items), abs=1e-6)
        assert metrics["share@5"] == pytest.approx(items[shown].mean())


# Own metrics.


def test_an_own_metric_gets_the_first_k_and_sees_what_is_no_item() -> None:
    asked = []

    def metric(*given: torch.Tensor) -> torch.Tensor:
        asked.append([each.tolist() for each in given])
        return torch.tensor([1.5])

    item_Bk, hit_Bk = torch.tensor([[7, 3, 0]]), torch.tensor([[False, True, False]])
    valid_Bk = torch.tensor([[True, True, False]])
    values = own_metrics(
        {"a:b": metric}, torch.tensor([4]), item_Bk, valid_Bk, hit_Bk, torch.tensor([2]), [2, 9]
    )
    assert {name: value_B.tolist() for name, value_B in values.items()} == {"a:b@2": [1.5], "a:b@9": [1.5]}
    assert asked == [
        [[4], [[7, 3]], [[False, True]], [2]],
        [[4], [[7, 3, -1]], [[False, True, False]], [2]],
    ]
