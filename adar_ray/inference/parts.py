"""Ranks parts of the users, and writes each to a file.

Legend: B users of a tile, N users of a part, k items per user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.ranking.top_items import TILE, top_items
from adar_ray.storage import Folder

TILES_A_PART = 128
_ROWS_A_PART = 1 << 22  # at most, if a tile has no more

OnPart = Callable[[int], None]


@dataclass(frozen=True)
class Part:
    """Users whose rows are in one file.

    Attributes:
        number: of the part, which is the file's name.
        user_N: their ids.
    """

    number: int
    user_N: np.ndarray


def parts_of(user: np.ndarray, k: int) -> list[Part]:
    """Cuts users into parts that fit in memory with k items each."""
    size = TILE * max(1, min(TILES_A_PART, _ROWS_A_PART // (k * TILE)))
    return [
        Part(number, user[start : start + size]) for number, start in enumerate(range(0, len(user), size))
    ]


@dataclass(frozen=True)
class PartWriter:
    """Ranks and writes any part of the users.

    Attributes:
        left_out: pairs that are not recommended.
        history: what a sequential model reads.
        user_keys, item_keys: the source's ids, by dense id.
        titles: of items, by dense id, null where one has none; None if no item has one.
        folder: gets a file per part.
        k: items per user.
    """

    model: BaseModel
    left_out: UserItems
    history: Histories | None
    user_keys: pa.ChunkedArray
    item_keys: pa.ChunkedArray
    titles: pa.Array | None
    folder: Folder
    k: int

    def __call__(self, part: Part) -> None:
        user = torch.from_numpy(part.user_N.astype(np.int64))
        tiles = top_items(self.model, user, self.left_out, self.k, len(self.item_keys), self.history)
        items, scores = zip(*((item_Bk, score_Bk) for _, item_Bk, score_Bk in tiles), strict=True)
        item_Nk, score_Nk = torch.cat(items).numpy(), torch.cat(scores).numpy()
        is_item_Nk = score_Nk > -np.inf
        rank_k = np.arange(1, item_Nk.shape[1] + 1, dtype=np.int32)
        item = pa.array(item_Nk[is_item_Nk])
        rows = {
            "user": self.user_keys.take(pa.array(part.user_N.repeat(is_item_Nk.sum(1)))),
            "item": self.item_keys.take(item),
            **({} if self.titles is None else {"title": self.titles.take(item)}),
            "rank": np.broadcast_to(rank_k, item_Nk.shape)[is_item_Nk],
            "score": score_Nk[is_item_Nk],
        }
        self.folder.write_table(f"{part.number:05d}.parquet", pa.table(rows))


def write_parts(writer: PartWriter, parts: Sequence[Part], on_part: OnPart) -> None:
    """Ranks and writes all parts, one after the other.

    Args:
        on_part: called with the number of users of each part that is done.
    """
    for part in parts:
        writer(part)
        on_part(len(part.user_N))
