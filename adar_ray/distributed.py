"""Communication between the workers of one run, in pure torch. A single process needs none.

Legend: B rows that this worker holds, A rows of all workers, D dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def world_size() -> int:
    """The number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(row_B: torch.Tensor) -> torch.Tensor:
    """Returns the rows of all workers, `[A, ...]`, in the order of workers, without gradients.

    Workers may hold different numbers of rows.
    """
    if world_size() == 1:
        return row_B.detach()
    gathered = [torch.zeros(1, dtype=torch.int64, device=row_B.device) for _ in range(world_size())]
    dist.all_gather(gathered, torch.tensor([len(row_B)], device=row_B.device))
    counts = [int(count) for count in gathered]
    filled = row_B.new_zeros(max(counts), *row_B.shape[1:])
    filled[: len(row_B)] = row_B
    parts = [torch.empty_like(filled) for _ in counts]
    dist.all_gather(parts, filled)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_rows_with_gradients(row_B: torch.Tensor) -> torch.Tensor:
    """`gather_rows` whose gradient is the sum of all workers' gradients of a row."""
    return row_B if world_size() == 1 else _GatherRows.apply(row_B)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_B: torch.Tensor) -> torch.Tensor:
        counts = gather_rows(torch.tensor([len(row_B)], device=row_B.device)).tolist()
        rank = dist.get_rank()
        ctx.mine = sum(counts[:rank]), sum(counts[: rank + 1])
        return gather_rows(row_B)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_A: torch.Tensor) -> torch.Tensor:
        total_A = gradient_A.clone()
        sum_over_workers([total_A])
        return total_A[slice(*ctx.mine)]


def gather_tables(
    tables: list[tuple[torch.Tensor, torch.Tensor]],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the rows of all workers for each of some tables, in the order of workers.

    Args:
        tables: row numbers `[B]` below 2**31 and vectors `[B, D]` of each; another B on each worker.
    """
    if world_size() == 1:
        return tables
    gathered = []
    for row_B, vector_BD in tables:
        # One message: the number of the row goes before its vector, bit by bit.
        head_B1 = row_B.to(torch.int32).view(torch.float32)[:, None]
        packed_AE = gather_rows(torch.cat([head_B1, vector_BD.float()], 1))
        row_A = packed_AE[:, 0].contiguous().view(torch.int32).to(torch.int64)
        gathered.append((row_A, packed_AE[:, 1:].contiguous().to(vector_BD.dtype)))
    return gathered


def sum_over_workers(tensors: list[torch.Tensor]) -> None:
    """Adds up each tensor over all workers, in place."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
