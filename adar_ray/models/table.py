"""Embedding tables whose gradients can be collected row by row.

Legend: B rows of the batch, K items per row, R rows looked up, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from adar_ray import kernels


class Gradients(NamedTuple):
    """Gradients of some rows of a table, one beside the other."""

    row_R: torch.Tensor
    vector_RD: torch.Tensor


class Products(NamedTuple):
    """Gradients of some rows of a table that are multiples of rows of another, and of themselves.

    That of row `row_R[r]` is the sum of `factor_RK[r, k]` times row `of_RK[r, k]` of `table`, and `own_R[r]`
    times the row itself, all as they are before the next update.
    """

    row_R: torch.Tensor
    factor_RK: torch.Tensor
    table: Table
    of_RK: torch.Tensor
    own_R: torch.Tensor


class Table(nn.Embedding):
    """An embedding table. Until `collect` is called its gradient is torch's own, as large as itself.

    Afterwards a backward pass leaves `weight.grad` alone and appends to `gradients` instead. An optimizer
    that takes them touches only those rows.
    """

    gradients: list[Gradients | Products] | None = None

    def reset_parameters(self) -> None:
        """Leaves the weights to whoever knows how they start: of large tables, drawing them twice is slow."""

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
            return super().forward(row)
        return _LookUp.apply(self.weight, row, self)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, row: torch.Tensor, table: Table) -> torch.Tensor:
        ctx.table, ctx.row = table, row
        return nn.functional.embedding(row, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, None, None]:
        ctx.table.gradients.append(Gradients(ctx.row.flatten(), gradient.reshape(-1, gradient.shape[-1])))
        return None, None, None


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
        tables = (users, items)
        if any(table.gradients is None or not kernels.runs_compiled(table.weight) for table in tables):
            return None
        return cls(*tables)

    def terms(
        self, user_B: torch.Tensor, item_BK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores `[B, K]`, and half the squared lengths of the rows: of users `[B]` and of items `[B, K]`."""
        return _Terms.apply(self.users.weight, self.items.weight, self, user_B, item_BK)

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
        item_BK: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ctx.pairs, ctx.user_B, ctx.item_BK = pairs, user_B.contiguous(), item_BK.contiguous()
        score_BK, user_square_B, item_square_BK = (
            user_weight.new_empty(ids.shape) for ids in (item_BK, user_B, item_BK)
        )
        tensors = (user_weight, ctx.user_B, item_weight, ctx.item_BK, score_BK, user_square_B, item_square_BK)
        kernels.pair_terms(*(tensor.detach().numpy() for tensor in tensors))
        return score_BK, user_square_B, item_square_BK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, score_BK: torch.Tensor, user_square_B: torch.Tensor, item_square_BK: torch.Tensor
    ) -> tuple[None, ...]:
        users, items, user_B, item_BK = ctx.pairs.users, ctx.pairs.items, ctx.user_B, ctx.item_BK
        users.gradients.append(Products(user_B, score_BK, items, item_BK, user_square_B))
        item_R, factor_R1 = item_BK.flatten(), score_BK.reshape(-1, 1)
        user_R1 = user_B[:, None].expand_as(item_BK).reshape(-1, 1)
        items.gradients.append(Products(item_R, factor_R1, users, user_R1, item_square_BK.flatten()))
        return (None,) * 5


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
