"""What lists of recommended items are like, whatever is relevant.

Legend: B lists, k length of a list, I items, G groups of items, U users, E users of the lists' items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import one_hot

from adar_ray.interactions.user_items import UserItems

SMOOTHING = 0.01


def diversity(
    observed: UserItems, item_Bk: torch.Tensor, valid_Bk: torch.Tensor, ks: Sequence[int]
) -> dict[str, torch.Tensor]:
    """`diversity@k` -> `[B]`: the mean of `1 - cosine` over the pairs of a list; NaN if there is none.

    The cosine is that of the items' sets of users, `|A and B| / sqrt(|A| |B|)`, so it is the same for every
    model. Time is proportional to the number of users of all items of the lists.

    Args:
        observed: the training interactions.
        item_Bk: the lists, best first.
        valid_Bk: which of them are items.
        ks: cutoffs.
    """
    B, width, U = *item_Bk.shape, observed.n_users
    at_E, user_E = observed.users_of(item_Bk.flatten())
    row_E, rank_E = at_E // width, at_E % width
    length_Bk = torch.bincount(at_E, minlength=B * width).double().sqrt().view(B, width)
    weight_E = (valid_Bk / length_Bk).flatten()[at_E]
    has_users_Bk = valid_Bk & (length_Bk > 0)
    total_BU, start, values = torch.zeros(B, U, dtype=torch.float64), 0, {}
    for k in sorted(ks):
        is_new_E = (start <= rank_E) & (rank_E < k)
        cell_E = (row_E * U + user_E)[is_new_E]
        total_BU += torch.bincount(cell_E, weight_E[is_new_E], minlength=B * U).view(B, U)
        items_B = valid_Bk[:, :k].sum(1)
        # Of all pairs, each in both orders: without those of an item and itself.
        cosines_B = total_BU.square().sum(1) - has_users_Bk[:, :k].sum(1)
        pairs_B = (items_B * (items_B - 1)).double()
        values[f"diversity@{k}"] = 1 - cosines_B / pairs_B.masked_fill(items_B < 2, torch.nan)
        start = k
    return values


def miscalibration(
    history_BG: torch.Tensor,
    group_I: torch.Tensor,
    item_Bk: torch.Tensor,
    valid_Bk: torch.Tensor,
    ks: Sequence[int],
) -> dict[str, torch.Tensor]:
    """`miscalibration@k` -> `[B]`: how far the groups of a list's items are from those of the user's history.

    Steck, "Calibrated Recommendations", RecSys 2018: the Kullback-Leibler divergence `sum p log(p / q)`, in
    nats, from the groups' shares p in the history to `q = 0.99 * (their shares in the list) + 0.01 * p`. NaN
    without a history or a list.

    Args:
        history_BG: how many items of each group the users' histories have.
        group_I: the items' groups.
        item_Bk, valid_Bk, ks: as for `diversity`.
    """
    history_BG = history_BG.double()
    p_BG = history_BG / history_BG.sum(1, keepdim=True)
    is_in_BkG = one_hot(group_I[item_Bk], history_BG.shape[1]) * valid_Bk[..., None]
    values = {}
    for k in ks:
        shown_BG = is_in_BkG[:, :k].sum(1).double()
        q_BG = (1 - SMOOTHING) * shown_BG / shown_BG.sum(1, keepdim=True) + SMOOTHING * p_BG
        divergence_B = (torch.xlogy(p_BG, p_BG) - torch.xlogy(p_BG, q_BG)).sum(1)
        values[f"miscalibration@{k}"] = divergence_B.clamp_min(0)
    return values


def novelty(shown_I: torch.Tensor, popularity_I: torch.Tensor, users: int) -> float:
    """The mean self-information of the recommended items, in bits.

    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 2010: that of
    an item is `log2(users / its users)`. An item without users counts as if it had one.

    Args:
        shown_I: how often each item is recommended.
        popularity_I: the number of its users.
        users: how many users there are.
    """
    bits_I = torch.log2(users / popularity_I.clamp_min(1).double())
    return float((shown_I * bits_I).sum() / shown_I.sum().clamp_min(1))


def gini(shown_I: torch.Tensor) -> float:
    """The Gini coefficient of how often the items of the catalog are recommended.

    0 if all are recommended equally often, nearly 1 if only one is.
    """
    n_items, total = len(shown_I), int(shown_I.sum())
    rank_I = torch.arange(1, n_items + 1)
    weighted = int(((2 * rank_I - n_items - 1) * shown_I.sort().values).sum())
    return weighted / (n_items * max(total, 1))
