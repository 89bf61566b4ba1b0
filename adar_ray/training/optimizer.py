"""Adam that touches only the rows of a table that a step has used, and all of any other parameter.

Legend: R rows of gradients, N rows of a table, D dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

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
from adar_ray.models.table import Gradients, Table
from adar_ray.training.row_sums import RowSums

BETAS = 0.9, 0.999
EPS, CLIP_EPS = 1e-8, 1e-6
MOMENTS = "mean", "square"


class _Rows(NamedTuple):
    """Rows of a table that this worker updates.

    Attributes:
        row_R, moment_R: their numbers in the weights here, and in the moments.
        gradient_RD: summed up over workers; valid until the table's sums change.
    """

    row_R: torch.Tensor
    moment_R: torch.Tensor
    gradient_RD: torch.Tensor


class Adam:
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015), with the weight decay of
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019).

    A `Table` is updated row by row: rows without a gradient keep their weights and moments, as with
    `torch.optim.SparseAdam`, and do not decay.

    With `torch.distributed` initialized, gradients are first added up over all workers, which then make the
    same step. Of a table only rows that have gradients travel: worker `w` of `n` adds up and updates the rows
    `w, w + n, w + 2n, ...`, whose moments it alone has, and everyone gets the new weights, unless the table
    is sharded.

    Args:
        module: what to train. Its tables collect gradients by row from now on, if `by_rows`.
        lr: learning rate.
        by_rows: False if every step reaches all rows anyway.
        own: names of parameters that each worker has for itself, such as the vectors of its users.
        clip: gradients are scaled down to this norm, that of all of them together; 0: never.
        weight_decay: a step takes this share, times `lr`, from the weights that it updates, except those of
            one dimension, such as biases.

    Attributes:
        lr: the learning rate of the next step.
        dealt: the tables whose rows, and moments, are dealt to the workers: names, and numbers of rows.
        sharded: names of those of which a worker has no other rows.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        *,
        by_rows: bool = True,
        own: Collection[str] = (),
        clip: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        self.lr, self.own, self.clip, self.weight_decay = lr, frozenset(own), clip, weight_decay
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._tables = {
            f"{name}.weight": table
            for name, table in module.named_modules()
            if by_rows and isinstance(table, Table) and f"{name}.weight" in self.parameters
        }
        for table in self._tables.values():
            table.collect()
        self.steps = 0
        embeddings = {name: part for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
        sizes = {f"{name}.weight": part.num_embeddings for name, part in embeddings.items()}
        self.dealt = {name: sizes[name] for name in sizes.keys() & self.parameters.keys() - self.own}
        self.sharded = {name for name, table in self._tables.items() if table.is_sharded}
        replicated = sorted(self.dealt.keys() - self.sharded)
        self._shared = {name for name in replicated if share(self.parameters[name])}
        self.moments = {}
        for name, weight in self.parameters.items():
            rows = weight[rank() :: world_size()] if name in replicated else weight
            self.moments[name] = torch.zeros_like(rows), torch.zeros_like(rows)
        self._sums = {
            name: RowSums(self.parameters[name], sizes[name], world_size() if self._is_dealt(name) else 1)
            for name in self._tables.keys() | {*filter(self._is_dealt, self.dealt)}
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The moments, as `mean:NAME` and `square:NAME` of each parameter."""
        return {
            f"{moment}:{name}": tensor
            for name, tensors in self.moments.items()
            for moment, tensor in zip(MOMENTS, tensors, strict=True)
        }

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
        for table in self._tables.values():
            table.take_gradients()

    @torch.no_grad()
    def step(self) -> None:
        """Follows the gradients; a parameter without one stays as it is."""
        self.steps += 1
        dense = self._take_dense()
        rows = {name: self._take_rows(name) for name in sorted(self._sums)}
        if self.clip:
            self._clip(dense, rows)
        if dense:
            self._adam([(self.parameters[name], grad, *self.moments[name]) for name, grad in dense.items()])
        for name, part in rows.items():
            self._follow_rows(name, part)
            self._sums[name].clear()

    def _take_dense(self) -> dict[str, torch.Tensor]:
        """Gradients of whole parameters, summed up over workers; those of rows go into `_sums`."""
        for name, table in self._tables.items():
            self._sums[name].add(table.take_gradients())
        dense = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for name in sorted(dense.keys() & self._sums.keys()):
            if self._is_dealt(name):
                gradient_ND = dense.pop(name)
                row_N = torch.arange(len(gradient_ND), device=gradient_ND.device)
                self._sums[name].add([Gradients(row_N, gradient_ND)])
            else:  # a model may use a table's weights in other ways as well
                dense[name].index_add_(0, *self._sums[name].of(0))
                self._sums[name].clear()
        sum_over_workers([gradient for name, gradient in dense.items() if name not in self.own])
        return dense

    def _take_rows(self, name: str) -> _Rows:
        """The rows that this worker updates; each gradient goes to the worker that the row is dealt to."""
        sums, workers = self._sums[name], world_size()
        if not self._is_dealt(name):
            row_R, gradient_RD = sums.of(0)
            return _Rows(row_R, row_R, gradient_RD)
        received = exchange([sums.of(worker) for worker in range(workers)])
        sums.add(Gradients(*part) for worker, part in enumerate(received) if worker != rank())
        row_R, gradient_RD = sums.of(rank())
        own_R = row_R // workers
        return _Rows(own_R if name in self.sharded else row_R, own_R, gradient_RD)

    def _is_dealt(self, name: str) -> bool:
        return name in self.dealt and world_size() > 1

    def _clip(self, dense: dict[str, torch.Tensor], rows: dict[str, _Rows]) -> None:
        """What `torch.nn.utils.clip_grad_norm_` does, over the parameters and rows of all workers."""
        alike = [gradient for name, gradient in dense.items() if name not in self.own]
        own = [gradient for name, gradient in dense.items() if name in self.own]
        own += [part.gradient_RD for part in rows.values()]
        square = next(iter(self.parameters.values())).new_zeros((), dtype=torch.float64)
        for gradient in own:
            square += torch.linalg.vector_norm(gradient).double().square()
        sum_over_workers([square])
        for gradient in alike:
            square += torch.linalg.vector_norm(gradient).double().square()
        scale = (self.clip / (square.sqrt() + CLIP_EPS)).clamp(max=1)
        for gradient in (*alike, *own):
            gradient.mul_(scale)

    def _follow_rows(self, name: str, part: _Rows) -> None:
        """Updates rows of a table, and has or hands out the new weights where they are replicated."""
        parameter, (mean, square) = self.parameters[name], self.moments[name]
        row_R, moment_R, gradient_RD = part
        if kernels.runs_compiled(parameter):
            arrays = (parameter.detach(), mean, square, row_R, moment_R, gradient_RD)
            rates = (self.lr, *BETAS, EPS, self.steps, self.lr * self.weight_decay)
            kernels.adam_rows(*(tensor.numpy() for tensor in arrays), *rates)
        else:
            weight_RD, mean_RD, square_RD = parameter[row_R], mean[moment_R], square[moment_R]
            self._adam([(weight_RD, gradient_RD, mean_RD, square_RD)])
            parameter[row_R], mean[moment_R], square[moment_R] = weight_RD, mean_RD, square_RD
        if name in self._shared:
            wait_for_all()
        elif self._is_dealt(name) and name not in self.sharded:
            for other, (new_R, weight_RD) in enumerate(gather([row_R, parameter.index_select(0, row_R)])):
                if other != rank():
                    parameter[new_R] = weight_RD

    def _adam(self, states: Sequence[tuple[torch.Tensor, ...]]) -> None:
        """One step of some weights, with their gradients and both moments, in place.

        It is what `torch.optim.Adam(fused=True)` calls; creating that loads torch's compiler.
        """
        weights, gradients, means, squares = (list(tensors) for tensors in zip(*states, strict=True))
        if self.weight_decay:
            for weight in weights:
                if weight.dim() > 1:
                    weight.mul_(1 - self.lr * self.weight_decay)
        count = torch.full((), float(self.steps), device=weights[0].device)
        torch._fused_adam_(
            weights,
            gradients,
            means,
            squares,
            [],
            [count] * len(weights),
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )
