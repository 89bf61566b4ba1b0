"""Communication between the workers of one run, in pure torch. A single process needs none.

Legend: B rows that this worker holds, A rows of all workers, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
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
    return start_gathering(row_B.detach())()


def start_gathering(row_B: torch.Tensor) -> Callable[[], torch.Tensor]:
    """`gather_rows` for later: rows travel from now on, and calling the result waits for them."""
    if world_size() == 1:
        return lambda: row_B
    gathered = [torch.zeros(1, dtype=torch.int64, device=row_B.device) for _ in range(world_size())]
    dist.all_gather(gathered, torch.tensor([len(row_B)], device=row_B.device))
    counts = [int(count) for count in gathered]
    filled = row_B.new_zeros(max(counts), *row_B.shape[1:])
    filled[: len(row_B)] = row_B
    parts = [torch.empty_like(filled) for _ in counts]
    travel = dist.all_gather(parts, filled, async_op=True)

    def arrived() -> torch.Tensor:
        travel.wait()
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    return arrived


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


def start_gathering_vectors(
    row_B: torch.Tensor, vector_BD: torch.Tensor
) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """`start_gathering` of row numbers below 2**31 with their vectors, in one message."""
    # The number of a row goes before its vector, bit by bit.
    head_B1 = row_B.to(torch.int32).view(torch.float32)[:, None]
    arrived = start_gathering(torch.cat([head_B1, vector_BD.float()], 1))

    def unpacked() -> tuple[torch.Tensor, torch.Tensor]:
        packed_AE = arrived()
        row_A = packed_AE[:, 0].contiguous().view(torch.int32).to(torch.int64)
        return row_A, packed_AE[:, 1:].contiguous().to(vector_BD.dtype)

    return unpacked


def sum_over_workers(tensors: list[torch.Tensor]) -> None:
    """Adds up each tensor over all workers, in place."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
