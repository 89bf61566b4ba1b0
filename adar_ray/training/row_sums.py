"""Sums of the gradients of a table's rows.

Legend: R rows of gradients, N rows of a table, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from adar_ray import kernels
from adar_ray.models.table import Gradients, Products, Table


class RowSums:
    """Each row of a table that has gradients, once, with their sum.

    Rows are dealt: of `n` workers `w` has the rows `w, w + n, w + 2n, ...`.

    Args:
        weight: the table's weights, `[N, D]`; of a sharded table those that are here.
        rows: N.
        workers: how many there are.
    """

    def __init__(self, weight: torch.Tensor, rows: int, workers: int) -> None:
        self._weight, self._workers = weight, workers
        self._is_compiled = kernels.runs_compiled(weight)
        self._gradients: list[Gradients | Products] = []  # where there are no compiled loops
        # Kept from step to step, since fresh memory is slow. Rows of a worker follow each other.
        self._counts = np.zeros(workers, np.int64)
        self._place_N = np.full(rows if self._is_compiled else 0, -1, np.int64)
        self._row_R, self._total_RD = np.empty(0, np.int64), np.empty((0, weight.shape[1]), np.float32)

    def add(self, gradients: Iterable[Gradients | Products]) -> None:
        """Adds gradients to the sums."""
        gradients = [*gradients]
        if not self._is_compiled:
            self._gradients += gradients
            return
        self._make_room(sum(len(part.row_R) for part in gradients))
        sums = self._place_N, self._row_R, self._total_RD, self._counts
        for part in gradients:
            arrays = [(x.weight if isinstance(x, Table) else x).detach().contiguous().numpy() for x in part]
            if isinstance(part, Products):
                kernels.sum_products(*arrays, self._weight.detach().numpy(), *sums)
            else:
                kernels.sum_rows(*arrays, *sums)

    def of(self, worker: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The worker's rows that have a sum, `[R]`, and the sums, `[R, D]`. Valid until the next change."""
        if self._is_compiled:
            start = worker * self._room()
            end = start + self._counts[worker]
            return torch.from_numpy(self._row_R[start:end]), torch.from_numpy(self._total_RD[start:end])
        rows = [torch.empty(0, dtype=torch.int64, device=self._weight.device)]
        vectors = [self._weight.detach()[:0]]
        for part in self._gradients:
            assert isinstance(part, Gradients)  # only compiled loops leave products
            is_own_R = part.row_R % self._workers == worker
            rows.append(part.row_R[is_own_R])
            vectors.append(part.vector_RD[is_own_R])
        distinct_R, at_R = torch.unique(torch.cat(rows), return_inverse=True)
        total_RD = self._weight.new_zeros(len(distinct_R), self._weight.shape[1])
        return distinct_R, total_RD.index_add_(0, at_R, torch.cat(vectors))

    def clear(self) -> None:
        """Forgets all gradients."""
        self._gradients = []
        for worker in range(self._workers if self._is_compiled else 0):
            self._place_N[self.of(worker)[0].numpy()] = -1
        self._counts[:] = 0

    def _room(self) -> int:
        """How many rows of a worker there is room for."""
        return len(self._row_R) // self._workers

    def _make_room(self, rows: int) -> None:
        """Makes room for this many more rows of any worker."""
        room = int(self._counts.max()) + rows
        if room <= self._room():
            return
        parts = [self.of(worker) for worker in range(self._workers)]
        self._row_R = np.empty(self._workers * room, np.int64)
        self._total_RD = np.empty((self._workers * room, self._total_RD.shape[1]), np.float32)
        for worker, (row_R, total_RD) in enumerate(parts):
            places = np.arange(worker * room, worker * room + len(row_R))
            self._row_R[places], self._total_RD[places] = row_R.numpy(), total_RD.numpy()
            self._place_N[row_R.numpy()] = places
