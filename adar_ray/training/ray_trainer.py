"""Ray Train as this library uses it: without the processes that have nothing to do here.

Ray Train's controller, a process of its own, loads this module, so it does not load torch.
"""

from __future__ import annotations

from typing import Any

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

ABORT_SECONDS = 4.0


class _VisibleGpus(Backend):
    share_cuda_visible_devices = True


class VisibleGpus(BackendConfig):
    """Each worker sees the GPUs of all workers on its machine, which then send to each other directly.

    What else Ray's configuration for torch does, workers do by themselves: the controller would load torch.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return _VisibleGpus


class Trainer(DataParallelTrainer):
    """Ray's, with fewer processes, and Ctrl-C does not wait without end for the controller.

    Args:
        goes_on: whether Ray goes on after the training, so that the room reserved for workers has to be given
            back, whatever happens to the controller.
        **arguments: those of Ray's trainer.
    """

    def __init__(self, *args: Any, goes_on: bool, **arguments: Any) -> None:
        super().__init__(*args, backend_config=VisibleGpus(), **arguments)
        self._goes_on = goes_on

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """All but those which start a process for nothing."""
        needless: list[type[RayTrainCallback]] = [DatasetsCallback]  # workers make streams of their own
        if not self._goes_on:
            needless.append(PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, tuple(needless))]

    def _register_sigint_handler(self, controller: ActorHandle) -> None:
        self._controller = controller

    def fit(self) -> ray.train.Result:
        try:
            return super().fit()
        except KeyboardInterrupt:
            if self._goes_on and hasattr(self, "_controller"):  # only the controller can give the room back
                ray.wait([self._controller.abort.remote()], timeout=ABORT_SECONDS)
            self.end()
            raise

    def end(self) -> None:
        """Ends the controller, which may wait for workers, and with it the workers. `fit` raises an error."""
        if hasattr(self, "_controller"):
            ray.kill(self._controller)
