"""Embedding tables whose gradients can be collected row by row.

Legend: B rows of the batch, K negatives per row, J = 1 + K items per row, R rows looked up, D dimensions,
N weighted sums of E rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn

from adar_ray import kernels
from adar_ray.distributed import exchange, rank, world_size

_BLOCK = 1 << 13  # rows that are drawn at a time if not all of them are kept
_ALIKE = 16  # numbers that torch draws together


class Gradients(NamedTuple):
    """Gradients of some rows of a table, one beside the other."""

    row_R: torch.Tensor
    vector_RD: torch.Tensor


class Products(NamedTuple):
    """Gradients of some rows of a table that are multiples of rows of another, and of themselves.

    That of row `row_R[r]` is the sum of `factor_RJ[r, j]` times row `of_RJ[r, j]` of `table`, and `own_R[r]`
    times the row itself, all as they are before the next update.
    """

    row_R: torch.Tensor
    factor_RJ: torch.Tensor
    table: Table
    of_RJ: torch.Tensor
    own_R: torch.Tensor


class Table(nn.Embedding):
    """An embedding table. Until `collect` is called its gradient is torch's own, as large as itself.

    Afterwards a backward pass leaves `weight.grad` alone and appends to `gradients` instead. An optimizer
    that takes them touches only those rows.

    Args:
        rows, dim: size of the table.
        sharded: of n workers, worker w holds the rows w, w + n, w + 2n, ... alone. Every look-up asks the
            others for theirs, so all workers have to make equally many; its gradient has to be collected.

    Attributes:
        num_embeddings: all rows, whoever holds them.
        is_sharded: whether other workers hold some of them.
    """

    gradients: list[Gradients | Products] | None = None

    def __init__(self, rows: int, dim: int, *, sharded: bool = False) -> None:
        is_sharded = sharded and world_size() > 1
        super().__init__(len(range(rank(), rows, world_size())) if is_sharded else rows, dim)
        self.num_embeddings, self.is_sharded = rows, is_sharded

    def reset_parameters(self) -> None:
        """Does nothing: models initialize the weights, and drawing large tables twice is slow."""

    def draw(self, fill: Callable[[torch.Tensor], object]) -> None:
        """Fills the weights with random numbers, whose rows are the same whoever holds them.

        Args:
            fill: fills some rows from torch's own generator, each number in the same way.
        """
        if not self.is_sharded:
            fill(self.weight.data)
            return
        # torch draws in groups, and the last one may overlap that before it: no block may be smaller.
        starts = range(0, max(self.num_embeddings - _ALIKE, 0) + 1, _BLOCK)
        held = 0
        for start, end in pairwise([*starts, self.num_embeddings]):
            block_RD = self.weight.new_empty(end - start, self.embedding_dim)
            fill(block_RD)
            own_RD = block_RD[(rank() - start) % world_size() :: world_size()]
            self.weight.data[held : held + len(own_RD)] = own_RD
            held += len(own_RD)

    def collect(self) -> None:
        """Collects gradients by row from now on."""
        self.gradients = []

    def take_gradients(self) -> list[Gradients | Products]:
        """All that has been collected since the last call."""
        assert self.gradients is not None
        taken, self.gradients = self.gradients, []
        return taken

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        if self.gradients is None or not torch.is_grad_enabled():
            return self.look_up(row)
        return _LookUp.apply(self.weight, row, self)

    def look_up(self, row: torch.Tensor) -> torch.Tensor:
        """The vectors of rows, whose numbers may have any shape; without gradients if others hold some."""
        if not self.is_sharded:
            return nn.functional.embedding(row, self.weight)
        workers, most = world_size(), -(-self.num_embeddings // world_size())
        # Numbered worker by worker, so that the rows that one of them holds follow each other.
        place_R, at = torch.unique(row % workers * most + row // workers, return_inverse=True)
        first_w = torch.arange(1, workers, device=row.device) * most
        asked = (place_R % most).tensor_split(torch.searchsorted(place_R, first_w).tolist())
        weight = self.weight.detach()
        wanted = [row_R for (row_R,) in exchange([[row_R] for row_R in asked])]
        found = exchange([[weight.index_select(0, row_R)] for row_R in wanted])
        return nn.functional.embedding(at, torch.cat([vector_RD for (vector_RD,) in found]))

    def sums(self, row_E: torch.Tensor, weight_E: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Weighted sums of rows, `[N, D]`; not of a sharded table.

        Args:
            row_E, weight_E: the rows and weights of the first sum, then those of the second, and so on.
            start: where those of each sum begin, and where the last sum's end, `[N + 1]`.
        """
        if self.gradients is None or not torch.is_grad_enabled():
            return self.add_up(row_E, weight_E, start)
        return _Sums.apply(self.weight, row_E, weight_E, start, self)

    def add_up(self, row_E: torch.Tensor, weight_E: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """What `sums` returns, with torch's own gradients."""
        bag = nn.functional.embedding_bag
        return bag(
            row_E, self.weight, start, mode="sum", per_sample_weights=weight_E, include_last_offset=True
        )


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: torch.Tensor,
        row_E: torch.Tensor,
        weight_E: torch.Tensor,
        start: torch.Tensor,
        table: Table,
    ) -> torch.Tensor:
        ctx.table, ctx.parts = table, (row_E, weight_E, start)
        return table.add_up(row_E, weight_E, start)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_ND: torch.Tensor) -> tuple[None, ...]:
        row_E, weight_E, start = ctx.parts
        vector_ED = gradient_ND.repeat_interleave(start.diff(), 0).mul_(weight_E[:, None])
        ctx.table.gradients.append(Gradients(row_E, vector_ED))
        return (None,) * 5


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, row: torch.Tensor, table: Table) -> torch.Tensor:
        ctx.table, ctx.row = table, row
        return table.look_up(row)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        ctx.table.gradients.append(Gradients(ctx.row.flatten(), gradient.reshape(-1, gradient.shape[-1])))
        return None, None, None


def is_sharded(model: object) -> bool:
    """Whether a model has a sharded table, so that its look-ups are calls that all workers make together."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return any(isinstance(module, Table) and module.is_sharded for module in modules)


@dataclass(frozen=True)
class TablePairs:
    """Scores that are dot products of rows of two tables, by the numbers of the rows.

    Neither rows nor their gradients are copied, which is most of the work of a step of matrix factorization.
    """

    users: Table
    items: Table

    @classmethod
    def of(cls, users: Table, items: Table) -> TablePairs | None:
        """None if the tables do not collect gradients, or are not where compiled loops reach them."""
        for table in (users, items):
            if table.gradients is None or table.is_sharded or not kernels.runs_compiled(table.weight):
                return None
        return cls(users, items)

    def terms(
        self, user_B: torch.Tensor, positive_B: torch.Tensor, negative_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores of positives `[B]` and of negatives `[B, K]`, and the L2 penalty `[B]`: half the squared
        lengths of the user's row, of the positive's, and the mean of the negatives', if there are any."""
        return _Terms.apply(self.users.weight, self.items.weight, self, user_B, positive_B, negative_BK)

    def item_squares(self, item: torch.Tensor) -> torch.Tensor:
        """Half the squared lengths of items' rows, in the shape of their numbers."""
        return _HalfSquares.apply(self.items.weight, self.items, item)


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        user_weight: torch.Tensor,
        item_weight: torch.Tensor,
        pairs: TablePairs,
        user_B: torch.Tensor,
        positive_B: torch.Tensor,
        negative_BK: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ids = user_B, positive_B, negative_BK = [
            part.contiguous() for part in (user_B, positive_B, negative_BK)
        ]
        ctx.pairs, ctx.ids = pairs, ids
        score_B, score_BK, penalty_B = (
            user_weight.new_empty(part.shape) for part in (positive_B, negative_BK, user_B)
        )
        tensors = (user_weight, user_B, item_weight, positive_B, negative_BK, score_B, score_BK, penalty_B)
        kernels.pair_terms(*(tensor.detach().numpy() for tensor in tensors))
        return score_B, score_BK, penalty_B

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, score_B: torch.Tensor, score_BK: torch.Tensor, penalty_B: torch.Tensor
    ) -> tuple[None, ...]:
        users, items, (user_B, positive_B, negative_BK) = ctx.pairs.users, ctx.pairs.items, ctx.ids
        K = negative_BK.shape[1]
        factor_BJ = torch.cat([score_B[:, None], score_BK], 1)
        item_BJ = torch.cat([positive_B[:, None], negative_BK], 1)
        users.gradients.append(Products(user_B, factor_BJ, items, item_BJ, penalty_B))
        items.gradients.append(Products(positive_B, score_B[:, None], users, user_B[:, None], penalty_B))
        if K:
            own_R = (penalty_B / K).repeat_interleave(K)
            user_R1 = user_B.repeat_interleave(K)[:, None]
            items.gradients.append(
                Products(negative_BK.view(-1), score_BK.reshape(-1, 1), users, user_R1, own_R)
            )
        return (None,) * 6


class _HalfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, table: Table, row: torch.Tensor) -> torch.Tensor:
        ctx.table, ctx.row_R = table, row.flatten()
        vector_RD = nn.functional.embedding(ctx.row_R, weight)
        return vector_RD.square().sum(-1).mul_(0.5).view(row.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, ...]:
        none_R0 = gradient.new_empty(len(ctx.row_R), 0)
        of_nothing = Products(ctx.row_R, none_R0, ctx.table, none_R0.long(), gradient.flatten())
        ctx.table.gradients.append(of_nothing)
        return None, None, None
