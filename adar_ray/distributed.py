"""Communication between the workers of one run, in pure torch. A single process needs none.

Legend: B rows that this worker holds, A rows of all workers.
"""

from __future__ import annotations

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
