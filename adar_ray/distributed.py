"""Communication between the workers of one run, in pure torch. A single process needs none.

Legend: B rows that this worker holds, A rows of all workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from adar_ray.shared_memory import SharedMemory

# Of the process, as torch.distributed's own group is: whoever communicates here need not be handed it.
_memory: SharedMemory | None = None


def world_size() -> int:
    """The number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, counted from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@contextmanager
def memory_shared() -> Iterator[None]:
    """Until it ends, workers whose tensors are on the CPU exchange them through memory if they share it."""
    global _memory
    if world_size() == 1 or _memory is not None:
        yield
        return
    _memory = SharedMemory.connect()
    try:
        yield
    finally:
        if _memory is not None:
            _memory.close()
        _memory = None


def share(tensor: torch.Tensor) -> bool:
    """Moves a tensor, equal on all workers, to memory that all of them share; returns whether there is any.

    A worker sees what another has written once both have called `wait_for_all`.
    """
    if _memory is None or not _on_cpu([tensor]) or not tensor.numel():
        return False
    _memory.share(tensor)
    return True


def wait_for_all() -> None:
    """Returns when all workers are here."""
    if _memory is not None:
        _memory.wait()
    elif world_size() > 1:
        dist.barrier()


def exchange(sent: Sequence[Sequence[torch.Tensor]]) -> list[list[torch.Tensor]]:
    """Sends the tensors `sent[w]` to worker `w`; returns those that each worker has sent here.

    Tensors for different workers differ in their number of rows alone. What is returned is valid until the
    second call after this one: of this function, `gather` or `sum_over_workers`.
    """
    if _memory is not None and _on_cpu(sent[0]):
        return _memory.exchange(sent)
    size, device = world_size(), sent[0][0].device
    if size == 1:
        return [list(sent[0])]
    count_WT = torch.tensor([[len(tensor) for tensor in tensors] for tensors in sent], device=device)
    counts_WT = torch.empty_like(count_WT)
    dist.all_to_all_single(counts_WT, count_WT)
    received: list[list[torch.Tensor]] = [[] for _ in range(size)]
    for tensors, out, into in zip(zip(*sent, strict=True), count_WT.T, counts_WT.T, strict=True):
        rows = tensors[0].new_empty(int(into.sum()), *tensors[0].shape[1:])
        dist.all_to_all_single(rows, torch.cat(tensors), into.tolist(), out.tolist())
        for parts, part in zip(received, rows.split(into.tolist()), strict=True):
            parts.append(part)
    return received


def gather(tensors: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """`exchange` that sends the same to everyone."""
    if _memory is not None and _on_cpu(tensors):
        return _memory.gather(tensors)
    size, device = world_size(), tensors[0].device
    if size == 1:
        return [list(tensors)]
    count_T = torch.tensor([len(tensor) for tensor in tensors], device=device)
    counted = [torch.empty_like(count_T) for _ in range(size)]
    dist.all_gather(counted, count_T)
    received: list[list[torch.Tensor]] = [[] for _ in range(size)]
    for tensor, counts in zip(tensors, torch.stack(counted, 1).tolist(), strict=True):
        filled = tensor.new_zeros(max(counts), *tensor.shape[1:])  # all workers send equally much
        filled[: len(tensor)] = tensor
        rows = [torch.empty_like(filled) for _ in counts]
        dist.all_gather(rows, filled)
        for parts, part, count in zip(received, rows, counts, strict=True):
            parts.append(part[:count])
    return received


def gather_rows(row_B: torch.Tensor) -> torch.Tensor:
    """Returns the rows of all workers, `[A, ...]`, in the order of workers, without gradients.

    Workers may hold different numbers of rows.
    """
    row_B = row_B.detach()
    return row_B if world_size() == 1 else torch.cat([part for (part,) in gather([row_B])])


def gather_rows_with_gradients(row_B: torch.Tensor) -> torch.Tensor:
    """`gather_rows` whose gradient is the sum of all workers' gradients of a row."""
    return row_B if world_size() == 1 else _GatherRows.apply(row_B)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_B: torch.Tensor) -> torch.Tensor:
        parts = [part for (part,) in gather([row_B.detach()])]
        ctx.counts = [len(part) for part in parts]
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_A: torch.Tensor) -> torch.Tensor:
        parts = exchange([[part] for part in gradient_A.split(ctx.counts)])
        return sum((part for (part,) in parts[1:]), parts[0][0].clone())


def sum_over_workers(tensors: list[torch.Tensor]) -> None:
    """Adds up each tensor over all workers, in place."""
    if world_size() == 1 or not tensors:
        return
    alone = len(tensors) == 1 and tensors[0].is_contiguous()
    flat = tensors[0].view(-1) if alone else torch.cat([tensor.flatten() for tensor in tensors])
    if _memory is not None and _on_cpu([flat]):
        # Each worker adds up its part, in the order of workers, so that all get the same sums.
        parts = [part for (part,) in exchange([[part] for part in flat.tensor_split(world_size())])]
        total = _memory.empty(parts[0].shape, flat.dtype)
        torch.add(parts[0], parts[1], out=total)
        for part in parts[2:]:
            total += part
        torch.cat([part for (part,) in gather([total])], out=flat)
    else:
        dist.all_reduce(flat)
    if not alone:
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _on_cpu(tensors: Sequence[torch.Tensor]) -> bool:
    return all(tensor.device.type == "cpu" for tensor in tensors)
