"""Adam that touches only the rows of a table that a step has used, and all of any other parameter.

Legend: R rows of gradients, N rows of a table, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from adar_ray import kernels
from adar_ray.distributed import (
    exchange,
    gather,
    rank,
    share,
    sum_over_workers,
    wait_for_all,
    world_size,
)
from adar_ray.models.table import Gradients, Products, Table

BETAS = 0.9, 0.999
EPS = 1e-8
MOMENTS = "mean", "square"


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015).

    A `Table` is updated row by row: rows without a gradient keep their weights and moments, as with
    `torch.optim.SparseAdam`.

    With `torch.distributed` initialized, gradients are first added up over all workers, which then make the
    same step. Of a table only rows that have gradients travel: worker `w` of `n` adds up and updates the rows
    `w, w + n, w + 2n, ...`, whose moments it alone has, and everyone gets the new weights, unless the table
    is sharded.

    Args:
        module: what to train. Its tables collect gradients by row from now on, if `by_rows`.
        lr: learning rate.
        by_rows: False if every step reaches all rows anyway.
        own: names of parameters that each worker has for itself, such as the vectors of its users.

    Attributes:
        dealt: the tables whose rows, and moments, are dealt to the workers: names, and numbers of rows.
        sharded: names of those of which a worker has no other rows.
    """

    def __init__(
        self, module: nn.Module, lr: float, *, by_rows: bool = True, own: Collection[str] = ()
    ) -> None:
        self.lr, self.own = lr, frozenset(own)
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._tables = {
            f"{name}.weight": table
            for name, table in module.named_modules()
            if by_rows and isinstance(table, Table) and f"{name}.weight" in self.parameters
        }
        for table in self._tables.values():
            table.collect()
        self.steps = 0
        self.sharded = {name for name, table in self._tables.items() if table.is_sharded}
        embeddings = {name: part for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
        sizes = {f"{name}.weight": part.num_embeddings for name, part in embeddings.items()}
        self.dealt = {name: sizes[name] for name in sizes.keys() & self.parameters.keys() - self.own}
        replicated = sorted(self.dealt.keys() - self.sharded)
        self._shared = {name for name in replicated if share(self.parameters[name])}
        self.moments = {}
        for name, weight in self.parameters.items():
            rows = weight[rank() :: world_size()] if name in replicated else weight
            self.moments[name] = torch.zeros_like(rows), torch.zeros_like(rows)
        self._rooms: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments, as `mean:NAME` and `square:NAME` of each parameter."""
        return {
            f"{moment}:{name}": tensor
            for name, tensors in self.moments.items()
            for moment, tensor in zip(MOMENTS, tensors, strict=True)
        }

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Follows the gradients; a parameter without one stays as it is."""
        self.steps += 1
        rows = {name: self._summed(name, table.take_gradients()) for name, table in self._tables.items()}
        dense = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for name in rows.keys() & dense.keys():  # a model may use a table's weights in other ways as well
            row_R, gradient_RD = rows.pop(name)
            dense[name].index_add_(0, row_R, gradient_RD)
        if world_size() > 1:
            for name in sorted(dense.keys() & self.dealt):
                gradient = dense.pop(name)
                rows[name] = torch.arange(len(gradient), device=gradient.device), gradient
        sum_over_workers([gradient for name, gradient in dense.items() if name not in self.own])
        if dense:
            moments = (self.moments[name] for name in dense)
            states = zip((self.parameters[name] for name in dense), dense.values(), moments, strict=True)
            _adam([(weight, gradient, *moment) for weight, gradient, moment in states], self.lr, self.steps)
        for name, (row_R, gradient_RD) in rows.items():
            if name in self.dealt and world_size() > 1:
                self._follow_dealt_rows(name, row_R, gradient_RD)
            else:
                self._follow_rows(name, row_R, row_R, gradient_RD)

    def _follow_dealt_rows(self, name: str, row_R: torch.Tensor, gradient_RD: torch.Tensor) -> None:
        """Hands each gradient to the worker that the row is dealt to; gets new weights back to replicate."""
        weight, workers = self.parameters[name], world_size()
        to_R = row_R % workers
        chosen = [(to_R == w).nonzero().squeeze(1) for w in range(workers)]
        sent = [tuple(rows.index_select(0, at) for rows in (row_R, gradient_RD)) for at in chosen]
        row_R, gradient_RD = self._summed(name, [Gradients(*part) for part in exchange(sent)])
        own_R = row_R // workers
        if name in self.sharded:
            self._follow_rows(name, own_R, own_R, gradient_RD)
            return
        self._follow_rows(name, row_R, own_R, gradient_RD)
        if name in self._shared:
            wait_for_all()
            return
        for other, (new_R, weight_RD) in enumerate(gather([row_R, weight.index_select(0, row_R)])):
            if other != rank():
                weight[new_R] = weight_RD

    def _summed(
        self, name: str, gradients: Sequence[Gradients | Products]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each row of the table once, and the sum of its gradients; valid until the next call."""
        weight = self.parameters[name]
        if not kernels.runs_compiled(weight):
            if not gradients:
                return torch.empty(0, dtype=torch.int64, device=weight.device), weight[:0]
            # Only compiled loops leave products.
            row_R, vector_RD = (torch.cat(part) for part in zip(*gradients, strict=True))
            distinct_R, at_R = torch.unique(row_R, return_inverse=True)
            total_RD = vector_RD.new_zeros(len(distinct_R), weight.shape[1])
            return distinct_R, total_RD.index_add_(0, at_R, vector_RD)
        room, count = self._room(name, sum(len(part.row_R) for part in gradients)), 0
        for part in gradients:
            arrays = [(x.weight if isinstance(x, Table) else x).detach().contiguous().numpy() for x in part]
            if isinstance(part, Products):
                weights = weight.detach().numpy()
                count = kernels.sum_products(*arrays, weights, *room, count)
            else:
                count = kernels.sum_rows(*arrays, *room, count)
        place, distinct, total = room
        place[distinct[:count]] = -1
        return torch.from_numpy(distinct[:count]), torch.from_numpy(total[:count])

    def _room(self, name: str, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `kernels.sum_rows` writes to: kept, since fresh memory is slow."""
        if name not in self._rooms or len(self._rooms[name][1]) < rows:
            held, dim = self.parameters[name].shape
            size = self.dealt.get(name, held)
            place, total = np.full(size, -1, np.int32), np.empty((rows, dim), np.float32)
            self._rooms[name] = place, np.empty(rows, np.int64), total
        return self._rooms[name]

    def _follow_rows(
        self, name: str, row_R: torch.Tensor, moment_R: torch.Tensor, gradient_RD: torch.Tensor
    ) -> None:
        """Updates rows of the weights here, whose moments are the rows `moment_R` of theirs."""
        parameter, (mean, square) = self.parameters[name], self.moments[name]
        if kernels.runs_compiled(parameter):
            arrays = (parameter.detach(), mean, square, row_R, moment_R, gradient_RD)
            kernels.adam_rows(*(tensor.numpy() for tensor in arrays), self.lr, *BETAS, EPS, self.steps)
            return
        weight_RD, mean_RD, square_RD = parameter[row_R], mean[moment_R], square[moment_R]
        _adam([(weight_RD, gradient_RD, mean_RD, square_RD)], self.lr, self.steps)
        parameter[row_R], mean[moment_R], square[moment_R] = weight_RD, mean_RD, square_RD


def _adam(states: list[tuple[torch.Tensor, ...]], lr: float, steps: int) -> None:
    """One step of some weights, with their gradients and both moments, in place.

    It is what `torch.optim.Adam(fused=True)` calls; creating that loads torch's compiler.
    """
    weights, gradients, means, squares = (list(tensors) for tensors in zip(*states, strict=True))
    count = torch.full((), float(steps), device=weights[0].device)
    torch._fused_adam_(
        weights,
        gradients,
        means,
        squares,
        [],
        [count] * len(weights),
        lr=lr,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=0.0,
        eps=EPS,
        amsgrad=False,
        maximize=False,
    )
