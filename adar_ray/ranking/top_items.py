"""The exact top items for users, out of all items.

Scores are computed for a tile of users and a chunk of items at a time. So memory stays bounded, and there is
never a matrix of all users by all items.

Legend: B users of a tile, L positions of a history, C items of a chunk, D dimensions, k items kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.protocol import snapshot

# A matrix product of another number of rows rounds differently. Tiles always have this many users, padded if
# necessary, so that a user's scores do not depend on the other users.
TILE = 256
CHUNK = 65536


@torch.no_grad()
def top_items(
    model: BaseModel,
    user: torch.Tensor,
    seen: UserItems,
    k: int,
    n_items: int,
    history: Histories | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields tiles `(user_B, item_Bk, score_Bk)`, best first, equal scores by item id.

    Args:
        model: a base model in evaluation mode.
        user: user ids, any number.
        seen: pairs to leave out. If that leaves fewer than k items, the rest of the row has score -inf.
        k: number of items per user, limited to the number of all items.
        history: users' histories, for a sequential model.
    """
    k, model = min(k, n_items), snapshot(model)
    chunks = [
        torch.arange(start, min(start + CHUNK, n_items), device=user.device)
        for start in range(0, n_items, CHUNK)
    ]
    for start in range(0, len(user), TILE):
        user_B = user[start : start + TILE]
        filled_B = torch.nn.functional.pad(user_B, (0, TILE - len(user_B)))
        user_BD = user_vectors(model, filled_B, history)
        row, column = seen.of(user_B)
        best_item = user_B.new_empty(len(user_B), 0)
        best_score = user_BD.new_empty(len(user_B), 0)
        for chunk in chunks:
            # A copy, since a model may return a view of a tensor that it keeps.
            score_BC = model.score(user_BD, model.items(chunk)[None])[: len(user_B)].clone()
            here = (column >= chunk[0]) & (column <= chunk[-1])
            score_BC[row[here], column[here] - chunk[0]] = -torch.inf
            score, item = _top(score_BC, min(k, len(chunk)))
            # Earlier chunks hold the smaller ids, so concatenation keeps equal scores in id order.
            score, item = torch.cat([best_score, score], 1), torch.cat([best_item, item + chunk[0]], 1)
            score, order = torch.sort(score, dim=1, descending=True, stable=True)
            best_score, best_item = score[:, :k], item.gather(1, order)[:, :k]
        yield user_B, best_item, best_score


def user_vectors(model: BaseModel, user_B: torch.Tensor, history: Histories | None = None) -> torch.Tensor:
    """Representations `[B, D]` of the users; with a sequential model, as of the end of their histories."""
    if history is None:
        return model.users({"user": user_B})
    user = model.users({"user": user_B, "history": history(user_B)})
    return user[:, -1] if user.dim() == 3 else user


def _top(score_BC: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best scores of each row and their columns, equal scores by column.

    torch.topk promises neither the order of equal scores nor which of them it keeps at rank k.
    """
    # One more than k. If it equals the last of the k, the choice between them is still open.
    value_Bk, column_Bk = torch.topk(score_BC, min(k + 1, score_BC.shape[1]), dim=1)
    if value_Bk.shape[1] > k:
        open_B = value_Bk[:, k - 1] == value_Bk[:, k]
        value_Bk, column_Bk = value_Bk[:, :k].clone(), column_Bk[:, :k].clone()
        if open_B.any():
            exact, order = torch.sort(score_BC[open_B], dim=1, descending=True, stable=True)
            value_Bk[open_B], column_Bk[open_B] = exact[:, :k], order[:, :k]
    column_Bk, by_column = torch.sort(column_Bk, dim=1)
    value_Bk, by_value = torch.sort(value_Bk.gather(1, by_column), dim=1, descending=True, stable=True)
    return value_Bk, column_Bk.gather(1, by_value)
