"""The exact top items for users, out of all items.

Scores are computed for a tile of users and a chunk of items at a time. So memory stays bounded, and there is
never a matrix of all users by all items.

Legend: B users of a tile, L positions of a history, C items of a chunk, P items of a panel, D dimensions,
k items kept, M blocks of items, N candidates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.protocol import snapshot
from adar_ray.process import torch_threads

T = TypeVar("T")

# A matrix product of another number of rows rounds differently. Tiles always have the same number of users,
# padded if necessary, so that a user's scores do not depend on the other users.
TILE, GPU_TILE = 128, 1024
CHUNK = 65536
# On a CPU, a product whose result stays in a core's cache is twice as fast as one that fills a chunk at once.
# A GPU would wait for the next of so many small products.
PANEL = 2048
BLOCK = 128


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

    On a CPU, each of torch's threads ranks tiles of its own: with all threads on one tile, they would spend
    their time waiting for each other, and its scores could depend on how many there are.

    Holds the vectors of all items. Asking for many users at once computes them once.

    Args:
        model: a base model in evaluation mode.
        user: user ids, any number.
        seen: pairs to leave out. If that leaves fewer than k items, the rest of the row has score -inf.
        k: number of items per user, limited to the number of all items.
        history: users' histories, for a sequential model.
    """
    model, is_on_cpu = snapshot(model), user.device.type == "cpu"
    size, panel = (TILE, PANEL) if is_on_cpu else (GPU_TILE, CHUNK)
    catalog = _Catalog(model, n_items, panel, user.device)
    tiles = user.split(size) if len(user) else ()
    threads = min(torch.get_num_threads(), len(tiles)) if is_on_cpu else 1
    if threads > 1:
        shares = [
            _rank(model, tiles[thread::threads], size, seen, k, catalog, history) for thread in range(threads)
        ]
        yield from _in_turn(shares)
    else:
        yield from _rank(model, tiles, size, seen, k, catalog, history)


def _in_turn(shares: list[Iterator[T]]) -> Iterator[T]:
    """Yields the first of each share, then the second of each, and so on. Each has a thread of its own."""
    with torch_threads(1), ThreadPoolExecutor(len(shares)) as pool:
        ahead = deque((share, pool.submit(next, share, None)) for share in shares)
        while ahead:
            share, result = ahead.popleft()
            value = result.result()
            if value is not None:
                ahead.append((share, pool.submit(next, share, None)))
                yield value


class _Catalog:
    """The vectors of all items, in chunks of panels.

    Attributes:
        width: columns of a chunk, whole blocks; chunks are as equal as can be.
        panel: columns of a panel.
        chunks: lists of panels' vectors, `[1, P, D]`.
    """

    def __init__(self, model: BaseModel, n_items: int, panel: int, device: torch.device) -> None:
        each = -(-n_items // -(-n_items // CHUNK))
        self.n_items, self.width, self.panel = n_items, -(-each // BLOCK) * BLOCK, panel
        self.chunks = [
            [model.items(item_P)[None] for item_P in item_C.split(panel)]
            for item_C in torch.arange(n_items, device=device).split(self.width)
        ]

    def score(
        self, model: BaseModel, user_BD: torch.Tensor, chunk: int, buffer_BC: torch.Tensor
    ) -> torch.Tensor:
        """The scores of a chunk's items in the buffer, then -inf. A buffer without rows is made.

        New memory for every tile would take longer than the product: the system zeroes it, page by page.
        """
        for number, panel_1PD in enumerate(self.chunks[chunk]):
            score_BP, start = model.score(user_BD, panel_1PD), number * self.panel
            if not len(buffer_BC):
                buffer_BC = score_BP.new_empty(len(user_BD), self.width + BLOCK)
            buffer_BC[:, start : start + score_BP.shape[1]] = score_BP
        buffer_BC[:, min(self.width, self.n_items - chunk * self.width) :] = -torch.inf
        return buffer_BC


@torch.no_grad()
def _rank(
    model: BaseModel,
    tiles: Sequence[torch.Tensor],
    size: int,
    seen: UserItems,
    k: int,
    catalog: _Catalog,
    history: Histories | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields what `top_items` does, for the given tiles of at most `size` users."""
    buffer_BC = torch.empty(0)
    for user_B in tiles:
        filled_B = torch.nn.functional.pad(user_B, (0, size - len(user_B)))
        user_BD = user_vectors(model, filled_B, history)
        row, item = seen.of(user_B)
        best_item = user_B.new_empty(len(user_B), 0)
        best_score = user_BD.new_empty(len(user_B), 0)
        for chunk in range(len(catalog.chunks)):
            start = chunk * catalog.width
            buffer_BC = catalog.score(model, user_BD, chunk, buffer_BC)
            # Items of other chunks go to the spare block: choosing those of this one would stop a GPU.
            is_here = (item >= start) & (item < start + catalog.width)
            buffer_BC[row, torch.where(is_here, item - start, catalog.width)] = -torch.inf
            score, column = _top(buffer_BC[: len(user_B)], min(k, catalog.width, catalog.n_items - start))
            # Earlier chunks hold the smaller ids, so concatenation keeps equal scores in id order.
            score, ids = torch.cat([best_score, score], 1), torch.cat([best_item, column + start], 1)
            score, order = torch.sort(score, dim=1, descending=True, stable=True)
            best_score, best_item = score[:, :k], ids.gather(1, order)[:, :k]
        yield user_B, best_item, best_score


def user_vectors(model: BaseModel, user_B: torch.Tensor, history: Histories | None = None) -> torch.Tensor:
    """Representations `[B, D]` of the users; with a sequential model, as of the end of their histories."""
    if history is None:
        return model.users({"user": user_B})
    user = model.users({"user": user_B, "history": history(user_B)})
    return user[:, -1] if user.dim() == 3 else user


def _width(n_items: int) -> int:
    """The number of columns of a chunk, whole blocks: chunks are as equal as can be."""
    each = -(-n_items // -(-n_items // CHUNK))
    return -(-each // BLOCK) * BLOCK


def _top(score_BC: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best scores of each row and their columns, equal scores by column.

    They are all in the k blocks of columns with the highest maxima, equal maxima by column: each block before
    theirs holds an item that is at least as good, and comes earlier.
    """
    B, M = len(score_BC), score_BC.shape[1] // BLOCK
    block_Bk = _best_columns(score_BC.view(B, M, BLOCK).amax(2), min(k, M))
    row_B1 = torch.arange(B, device=score_BC.device)[:, None]
    score_BN = score_BC.view(-1, BLOCK).index_select(0, (row_B1 * M + block_Bk).flatten()).view(B, -1)
    at_Bk = _best_columns(score_BN, k)
    value_Bk, order_Bk = torch.sort(score_BN.gather(1, at_Bk), dim=1, descending=True, stable=True)
    at_Bk = at_Bk.gather(1, order_Bk)
    return value_Bk, block_Bk.gather(1, at_Bk // BLOCK) * BLOCK + at_Bk % BLOCK


def _best_columns(value_BC: torch.Tensor, k: int) -> torch.Tensor:
    """The columns of each row's k highest values, in ascending order; of equal values, the first count.

    torch.topk does not promise which of them it keeps at rank k.
    """
    # One more than k. If it equals the last of the k, the choice between them is still open.
    highest_Bk, column_Bk = torch.topk(value_BC, min(k + 1, value_BC.shape[1]), dim=1)
    if column_Bk.shape[1] > k:
        open_B = highest_Bk[:, k - 1] == highest_Bk[:, k]
        column_Bk = column_Bk[:, :k]
        if open_B.any():
            order = torch.sort(value_BC[open_B], dim=1, descending=True, stable=True).indices
            column_Bk[open_B] = order[:, :k]
    return column_Bk.sort(1).values
