"""Ranking metrics against ranx, which follows trec_eval, and against sums done by hand."""

import math

import pytest
import torch

from adar_ray.metrics import METRICS, ranking_metrics

KS = (1, 3, 5, 10)


def random_rankings(users: int, width: int, most: int) -> tuple[torch.Tensor, list[set[int]]]:
    """A ranking of `width` of 40 items per user, and 1 to `most` relevant items."""
    draw = torch.Generator().manual_seed(width)
    ranking = torch.rand(users, 40, generator=draw).argsort(1)[:, :width]
    wanted = torch.randint(1, most + 1, (users,), generator=draw).tolist()
    relevant = [set(torch.randperm(40, generator=draw)[:n].tolist()) for n in wanted]
    return ranking, relevant


def hits(ranking: torch.Tensor, relevant: list[set[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    hit = [[item in truth for item in row] for row, truth in zip(ranking.tolist(), relevant, strict=True)]
    return torch.tensor(hit), torch.tensor([len(truth) for truth in relevant])


@pytest.mark.parametrize("most", [1, 4, 25], ids=["one relevant item", "a few", "more than k"])
def test_metrics_of_random_rankings_are_those_of_ranx(ranx_metrics, most):
    ranking, relevant = random_rankings(users=30, width=10, most=most)
    truth = {f"{u:02}": {str(i): 1 for i in truth} for u, truth in enumerate(relevant)}
    scores = [{str(item): float(-rank) for rank, item in enumerate(row)} for row in ranking.tolist()]
    run = {f"{u:02}": row for u, row in enumerate(scores)}
    names = [f"{metric}@{k}" for metric in METRICS for k in KS]
    ours = ranking_metrics(*hits(ranking, relevant), KS)
    theirs = ranx_metrics(truth, run, names, return_mean=False)
    assert set(ours) == set(names)
    for name in names:
        assert ours[name].tolist() == pytest.approx(list(theirs[name]), abs=1e-6), name


def test_metrics_by_hand():
    metrics = ranking_metrics(torch.tensor([[False, True, False, True]]), torch.tensor([3]), [1, 4])
    expected = {
        "recall@1": 0,
        "ndcg@1": 0,
        "hit_rate@1": 0,
        "precision@1": 0,
        "mrr@1": 0,
        "map@1": 0,
        "recall@4": 2 / 3,
        "ndcg@4": (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(4)),
        "hit_rate@4": 1,
        "precision@4": 2 / 4,
        "mrr@4": 1 / 2,
        "map@4": (1 / 2 + 2 / 4) / 3,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-12)


def test_the_best_ranking_there_is_scores_one_even_with_more_relevant_items_than_k():
    metrics = ranking_metrics(torch.ones(1, 5, dtype=torch.bool), torch.tensor([9]), [5])
    assert metrics["ndcg@5"].item() == pytest.approx(1, abs=1e-12)
    assert metrics["precision@5"].item() == metrics["mrr@5"].item() == metrics["hit_rate@5"].item() == 1
    assert metrics["recall@5"].item() == metrics["map@5"].item() == pytest.approx(5 / 9, abs=1e-12)


def test_a_ranking_without_hits_scores_zero():
    metrics = ranking_metrics(torch.zeros(2, 5, dtype=torch.bool), torch.tensor([1, 7]), [2, 5])
    assert all(value.tolist() == [0, 0] for value in metrics.values())


def test_a_catalog_smaller_than_k():
    narrow = ranking_metrics(torch.tensor([[False, True, True]]), torch.tensor([2]), [5])
    padded = ranking_metrics(torch.tensor([[False, True, True, False, False]]), torch.tensor([2]), [5])
    assert narrow == padded
    assert narrow["precision@5"].item() == 2 / 5


def test_users_do_not_touch_each_other():
    ranking, relevant = random_rankings(users=12, width=10, most=25)
    hit, counts = hits(ranking, relevant)
    together = ranking_metrics(hit, counts, KS)
    for user in range(12):
        alone = ranking_metrics(hit[user : user + 1], counts[user : user + 1], KS)
        assert {n: v.item() for n, v in alone.items()} == {n: v[user].item() for n, v in together.items()}
