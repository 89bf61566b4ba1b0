"""The exact top items for users, out of all items.

Scores are computed for a tile of users and a chunk of items at a time. So memory stays bounded, and there is
never a matrix of all users by all items.

Legend: B users of a tile, L positions of a history, C items of a chunk, P items of a panel, D dimensions,
k items kept, M blocks of items, N candidates, I items.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from adar_ray.distributed import gather_rows
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.models.protocol import ranking_items, snapshot
from adar_ray.models.table import is_sharded
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
    among_I: torch.Tensor | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields tiles `(user_B, item_Bk, score_Bk)`, best first, equal scores by item id.

    On a CPU, each of torch's threads ranks tiles of its own: with all threads on one tile, they would spend
    their time waiting for each other, and its scores could depend on how many there are.

    Holds the vectors of all items. Asking for many users at once computes them once. If workers share out the
    items, it holds those of all its users and of a chunk of items; then every worker has to call it, also one
    without users, and threads share each product.

    Args:
        model: a base model in evaluation mode.
        user: user ids, any number.
        seen: pairs to leave out. If that leaves fewer than k items, the rest of the row has score -inf.
        k: number of items per user, limited to the number of all items.
        history: users' histories, for a sequential model.
        among_I: False for items to leave out for all users.
    """
    walks, model, is_on_cpu = is_sharded(model), snapshot(model), user.device.type == "cpu"
    size, panel = (TILE, PANEL) if is_on_cpu else (GPU_TILE, CHUNK)
    chunks = _chunks(model, n_items, panel, user.device)
    tiles = user.split(size) if len(user) else ()
    if walks:  # through the chunks, once, beside the other workers, who may have more tiles
        most = int(gather_rows(torch.tensor([len(tiles)], device=user.device)).max())
        filled = [*tiles, *[user[:0]] * (most - len(tiles))]
        yield from _rank(model, [filled], size, seen, k, chunks, history, among_I)
        return
    groups, catalog = [[user_B] for user_B in tiles], list(chunks)
    threads = min(torch.get_num_threads(), len(tiles)) if is_on_cpu else 1
    if threads > 1:
        shares = [
            _rank(model, groups[thread::threads], size, seen, k, catalog, history, among_I)
            for thread in range(threads)
        ]
        yield from _in_turn(shares)
    else:
        yield from _rank(model, groups, size, seen, k, catalog, history, among_I)


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


@dataclass(frozen=True)
class _Chunk:
    """The vectors of some items that follow each other.

    Attributes:
        start, end: the first of them, and the one after the last.
        width: columns of a chunk, whole blocks.
        panels: their vectors, `[1, P, D]`.
    """

    start: int
    end: int
    width: int
    panels: list[torch.Tensor]

    def score(self, model: BaseModel, user_BD: torch.Tensor, buffer_BC: torch.Tensor) -> torch.Tensor:
        """The scores of the items in the buffer, then -inf. A buffer without rows is made.

        New memory for every tile would take longer than the product: the system zeroes it, page by page.
        """
        column = 0
        for panel_1PD in self.panels:
            score_BP = model.score(user_BD, panel_1PD)
            if not len(buffer_BC):
                buffer_BC = score_BP.new_empty(len(user_BD), self.width + BLOCK)
            buffer_BC[:, column : column + score_BP.shape[1]] = score_BP
            column += score_BP.shape[1]
        buffer_BC[:, column:] = -torch.inf
        return buffer_BC


@torch.no_grad()
def _chunks(model: BaseModel, n_items: int, panel: int, device: torch.device) -> Iterator[_Chunk]:
    """All items, in chunks that are as equal as can be, of panels with as many columns as asked for."""
    each = -(-n_items // -(-n_items // CHUNK))
    width = -(-each // BLOCK) * BLOCK
    for start in range(0, n_items, width):
        end = min(start + width, n_items)
        item_C = torch.arange(start, end, device=device)
        yield _Chunk(
            start, end, width, [ranking_items(model, item_P)[None] for item_P in item_C.split(panel)]
        )


class _Ranking:
    """The best items of a tile's users, of the chunks so far."""

    def __init__(
        self,
        user_B: torch.Tensor,
        user_BD: torch.Tensor,
        seen: UserItems,
        k: int,
        among_I: torch.Tensor | None,
    ) -> None:
        self.user_B, self.user_BD, self.k, self.among_I = user_B, user_BD, k, among_I
        self.row, self.item = seen.of(user_B)
        self.best_item = user_B.new_empty(len(user_B), 0)
        self.best_score = user_BD.new_empty(len(user_B), 0)

    def add(self, model: BaseModel, chunk: _Chunk, buffer_BC: torch.Tensor) -> torch.Tensor:
        """Ranks a chunk that comes after those so far; returns the buffer, for the next one's scores."""
        buffer_BC = chunk.score(model, self.user_BD, buffer_BC)
        if self.among_I is not None:
            among_C = self.among_I[chunk.start : chunk.end]
            buffer_BC[:, : len(among_C)].masked_fill_(~among_C, -torch.inf)
        # Items of other chunks go to the spare block: choosing those of this one would stop a GPU.
        is_here = (self.item >= chunk.start) & (self.item < chunk.end)
        buffer_BC[self.row, torch.where(is_here, self.item - chunk.start, chunk.width)] = -torch.inf
        score, column = _top(buffer_BC[: len(self.user_B)], min(self.k, chunk.end - chunk.start))
        # Earlier chunks hold the smaller ids, so concatenation keeps equal scores in id order.
        score = torch.cat([self.best_score, score], 1)
        ids = torch.cat([self.best_item, column + chunk.start], 1)
        score, order = torch.sort(score, dim=1, descending=True, stable=True)
        self.best_score, self.best_item = score[:, : self.k], ids.gather(1, order)[:, : self.k]
        return buffer_BC


@torch.no_grad()
def _rank(
    model: BaseModel,
    groups: Sequence[Sequence[torch.Tensor]],
    size: int,
    seen: UserItems,
    k: int,
    catalog: Iterable[_Chunk],
    history: Histories | None,
    among_I: torch.Tensor | None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields what `top_items` does, for the given tiles of at most `size` users.

    Goes through the catalog once for each group of tiles.
    """
    buffer_BC = torch.empty(0)
    for tiles in groups:
        rankings = []
        for user_B in tiles:
            filled_B = torch.nn.functional.pad(user_B, (0, size - len(user_B))) if len(user_B) else user_B
            user_BD = user_vectors(model, filled_B, history)
            if len(user_B):
                rankings.append(_Ranking(user_B, user_BD, seen, k, among_I))
        for chunk in catalog:
            for ranking in rankings:
                buffer_BC = ranking.add(model, chunk, buffer_BC)
        for ranking in rankings:
            yield ranking.user_B, ranking.best_item, ranking.best_score


def user_vectors(
    model: BaseModel, user_B: torch.Tensor, history: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Representations `[B, D]` of the users; with a sequential model, as of the end of their histories."""
    if history is None:
        return model.users({"user": user_B})
    user = model.users({"user": user_B, "history": history(user_B)})
    return user[:, -1] if user.dim() == 3 else user


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
