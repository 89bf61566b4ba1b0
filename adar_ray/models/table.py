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
    """Gradients of some rows of a table that are multiples of rows of another, or of the same.

    That of row `row_R[r]` is `factor_R[r]` times row `of_R[r]` of `table`, as it is before the next update.
    """

    row_R: torch.Tensor
    factor_R: torch.Tensor
    table: Table
    of_R: torch.Tensor


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

    def scores(self, user_B: torch.Tensor, item_BK: torch.Tensor) -> torch.Tensor:
        """`[B, K]`."""
        return _RowDots.apply(self.users.weight, self.items.weight, self, user_B, item_BK)

    def user_squares(self, user: torch.Tensor) -> torch.Tensor:
        """Half the squared lengths of users' rows, in the shape of their numbers."""
        return _HalfSquares.apply(self.users.weight, self.users, user)

    def item_squares(self, item: torch.Tensor) -> torch.Tensor:
        """Half the squared lengths of items' rows, in the shape of their numbers."""
        return _HalfSquares.apply(self.items.weight, self.items, item)


class _RowDots(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        user_weight: torch.Tensor,
        item_weight: torch.Tensor,
        pairs: TablePairs,
        user_B: torch.Tensor,
        item_BK: torch.Tensor,
    ) -> torch.Tensor:
        ctx.pairs, ctx.user_B, ctx.item_BK = pairs, user_B, item_BK
        score_BK = user_weight.new_empty(item_BK.shape)
        tensors = (user_weight, user_B, item_weight, item_BK, score_BK)
        kernels.row_dots(*(tensor.detach().contiguous().numpy() for tensor in tensors))
        return score_BK

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_BK: torch.Tensor) -> tuple[None, ...]:
        users, items = ctx.pairs.users, ctx.pairs.items
        user_R, item_R = ctx.user_B[:, None].expand_as(ctx.item_BK).flatten(), ctx.item_BK.flatten()
        factor_R = gradient_BK.flatten()
        users.gradients.append(Products(user_R, factor_R, items, item_R))
        items.gradients.append(Products(item_R, factor_R, users, user_R))
        return (None,) * 5


class _HalfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, table: Table, row: torch.Tensor) -> torch.Tensor:
        ctx.table, ctx.row_R = table, row.flatten()
        square_R1 = weight.new_empty(len(ctx.row_R), 1)
        tensors = (weight, ctx.row_R, weight, ctx.row_R[:, None], square_R1)
        kernels.row_dots(*(tensor.detach().contiguous().numpy() for tensor in tensors))
        return square_R1.view(row.shape).mul_(0.5)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, ...]:
        ctx.table.gradients.append(Products(ctx.row_R, gradient.flatten(), ctx.table, ctx.row_R))
        return None, None, None
