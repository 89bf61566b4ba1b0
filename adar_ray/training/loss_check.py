"""Looks after each step whether the loss is a number."""

from __future__ import annotations

import math

import torch
from safetensors.torch import save as save_safetensors

from adar_ray.data.order import Batch
from adar_ray.errors import AdarError
from adar_ray.training.records import Place
from adar_ray.training.run import Run
from adar_ray.training.worker import Worker


class LossCheck:
    """Refuses or passes over a step whose loss is not a number, as `train.on_nan` says.

    A GPU need not wait for the answer: unless steps are to be skipped, it comes one step later.
    """

    ADVICE = (
        "training cannot continue: resume with --set and a lower optimizer.lr, or a higher temperature of "
        "the loss"
    )

    def __init__(self, run: Run, worker: Worker) -> None:
        self._run, self._worker = run, worker
        self._skips = run.config.train.on_nan == "skip"
        self._waiting: tuple[Place, torch.Tensor, Batch] | None = None

    def passes(self, place: Place, loss: torch.Tensor, batch: Batch) -> bool:
        """Whether the step may move the weights.

        Args:
            place: epoch and step, for the message.

        Raises:
            AdarError: the loss is not a number, and the step is not to be skipped. The batch is in the run's
                folder.
        """
        loss = loss.detach()
        if self._skips:
            return not self._worker.all_reduce((~torch.isfinite(loss)).to(torch.int64))
        if loss.is_cuda:
            self.finish()
            self._waiting = place, loss, batch
        else:
            self._refuse_unless_number(place, loss, batch)
        return True

    def finish(self) -> None:
        """Waits for the answer of the last step."""
        if self._waiting is not None:
            self._refuse_unless_number(*self._waiting)
            self._waiting = None

    def _refuse_unless_number(self, place: Place, loss: torch.Tensor, batch: Batch) -> None:
        value = float(loss)
        if math.isfinite(value):
            return
        (epoch, step), rank = place, self._worker.rank
        name = f"bad_batch-{rank:05d}.safetensors"
        tensors = {"user": torch.from_numpy(batch.user.copy()), "item": torch.from_numpy(batch.item.copy())}
        origin = {"epoch": str(epoch), "step": str(step), "worker": str(rank)}
        self._run.write_bad_batch(name, save_safetensors(tensors, origin))
        raise AdarError(
            f"epoch {epoch}, step {step}: the loss is {value} on worker {rank}, whose batch is in "
            f"{self._run.folder}/{name}; {self.ADVICE}"
        )
