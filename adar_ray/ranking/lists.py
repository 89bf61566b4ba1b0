"""What lists of recommended items are like, whatever is relevant.

Legend: B lists, k length of a list, R ranks of it, I items, G groups of items, U users, E pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch.nn.functional import one_hot

from adar_ray.interactions.user_items import UserItems

SMOOTHING = 0.01


def sets_of_users(observed: UserItems) -> csr_array:
    """Each item's users as a row of length 1, `[I, U]`, and an empty row at the end."""
    start, user_E = observed.users_by_item()
    count_I = start.diff()
    weight_E = count_I.float().rsqrt().repeat_interleave(count_I)
    parts = (weight_E, user_E, torch.cat([start, start[-1:]]))
    return csr_array(tuple(part.numpy() for part in parts), shape=(len(count_I) + 1, observed.n_users))


def diversity(
    sets_IU: csr_array, item_Bk: torch.Tensor, valid_Bk: torch.Tensor, ks: Sequence[int]
) -> dict[str, torch.Tensor]:
    """`diversity@k` -> `[B]`: the mean of `1 - cosine` over the pairs of a list; NaN if there is none.

    The cosine is that of the items' sets of users, `|A and B| / sqrt(|A| |B|)`, so it is the same for every
    model. Time is proportional to the number of users of all items of the lists.

    Args:
        sets_IU: `sets_of_users` of the training interactions.
        item_Bk: the lists, best first.
        valid_Bk: which of them are items.
        ks: cutoffs.
    """
    empty = sets_IU.shape[0] - 1
    row_Bk = item_Bk.masked_fill(~valid_Bk, empty).numpy()
    has_users_I = np.diff(sets_IU.indptr) > 0
    total_BU, start, values = np.zeros((len(row_Bk), sets_IU.shape[1]), np.float32), 0, {}
    for k in sorted(ks):
        new_BR = row_Bk[:, start:k]
        if new_BR.size:
            sets = sets_IU[new_BR.ravel()]
            ends = sets.indptr[:: new_BR.shape[1]]  # of all the sets of a list, which are added up
            total_BU += csr_array((sets.data, sets.indices, ends), shape=total_BU.shape).toarray()
        # Of all pairs, each in both orders: without those of an item and itself.
        cosines_B = np.square(total_BU).sum(1, dtype=np.float64) - has_users_I[row_Bk[:, :k]].sum(1)
        items_B = valid_Bk[:, :k].sum(1).double()
        pairs_B = (items_B * (items_B - 1)).masked_fill(items_B < 2, torch.nan)
        values[f"diversity@{k}"] = 1 - torch.from_numpy(cosines_B) / pairs_B
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
