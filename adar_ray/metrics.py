"""Ranking metrics per user, vectorized over users.

Legend: B users, k length of a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

METRICS = ("recall", "ndcg", "hit_rate", "precision", "mrr", "map")


def ranking_metrics(
    hit_Bk: torch.Tensor, relevant_B: torch.Tensor, ks: Sequence[int]
) -> dict[str, torch.Tensor]:
    """Metrics of rankings from their hits: `metric@k` -> `[B]` in float64.

    Binary relevance; definitions as in trec_eval: recall = hits / relevant, precision = hits / k,
    NDCG against the best possible ranking of k, MRR = 1 / rank of the first hit (0 if there is none
    in k), MAP = sum of the precisions at the hits / relevant, hit rate = whether there is a hit.

    Args:
        hit_Bk: whether the item at each rank is relevant, best rank first; at least max(ks) wide.
        relevant_B: number of relevant items of each user, at least 1.
        ks: cutoffs.
    """
    hit_Bk = hit_Bk.to(torch.float64)
    relevant_B = relevant_B.to(torch.float64)
    rank_k = torch.arange(1, hit_Bk.shape[1] + 1, dtype=torch.float64, device=hit_Bk.device)
    discount_k = 1 / torch.log2(rank_k + 1)
    hits_Bk = hit_Bk.cumsum(1)
    dcg_Bk = (hit_Bk * discount_k).cumsum(1)
    best_dcg_k = discount_k.cumsum(0)
    precision_sum_Bk = (hit_Bk * hits_Bk / rank_k).cumsum(1)
    reciprocal_Bk = (hit_Bk / rank_k).cummax(1).values

    metrics = {}
    for k in ks:
        # A catalog smaller than k has no rank k: its last rank stands in for it.
        at = min(k, hit_Bk.shape[1]) - 1
        best_B = best_dcg_k[torch.clamp(relevant_B.long(), max=at + 1) - 1]
        metrics[f"recall@{k}"] = hits_Bk[:, at] / relevant_B
        metrics[f"ndcg@{k}"] = dcg_Bk[:, at] / best_B
        metrics[f"hit_rate@{k}"] = (hits_Bk[:, at] > 0).to(torch.float64)
        metrics[f"precision@{k}"] = hits_Bk[:, at] / k
        metrics[f"mrr@{k}"] = reciprocal_Bk[:, at]
        metrics[f"map@{k}"] = precision_sum_Bk[:, at] / relevant_B
    return metrics
