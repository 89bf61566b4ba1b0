"""Embedding tables whose gradients can be collected row by row.

Legend: R rows looked up, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Table(nn.Embedding):
    """An embedding table. Until `collect` is called its gradient is torch's own, as large as itself.

    Afterwards a backward pass leaves `weight.grad` alone and appends to `gradients` instead: the rows of each
    look-up, `[R]`, and their gradients, `[R, D]`. An optimizer that takes them touches only those rows.
    """

    gradients: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def reset_parameters(self) -> None:
        """Leaves the weights to whoever knows how they start: of large tables, drawing them twice is slow."""

    def collect(self) -> None:
        """Collects gradients by row from now on."""
        self.gradients = []

    def take_gradients(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
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
        ctx.table.gradients.append((ctx.row.flatten(), gradient.reshape(-1, gradient.shape[-1])))
        return None, None, None
