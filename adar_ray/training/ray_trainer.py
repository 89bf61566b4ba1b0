"""Ray Train as this library uses it: without the processes that have nothing to do here.

Ray Train's controller, a process of its own, loads this module, so it does not load torch.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.train
from ray._private.worker import get_dashboard_url
from ray.actor import ActorHandle
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

KILL_SECONDS = 0.3  # that a controller which has just been killed may still be heard


class _VisibleGpus(Backend):
    share_cuda_visible_devices = True


class VisibleGpus(BackendConfig):
    """Each worker sees the GPUs of all workers on its machine, which then send to each other directly.

    What else Ray's configuration for torch does, workers do by themselves: the controller would load torch.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return _VisibleGpus


class _Alone(FixedScalingPolicy):
    """Ray's, without the actor that shares out a cluster to programs, which takes three seconds to start."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """Ray's, with fewer processes, and Ctrl-C does not wait without end for the controller.

    Args:
        goes_on: whether Ray goes on after the training, so that the room reserved for workers has to be given
            back, whatever happens to the controller.
        shares: whether others want room, too: other programs in the same Ray, or Ray Data.
        **arguments: those of Ray's trainer.
    """

    def __init__(self, *args: Any, goes_on: bool, shares: bool, **arguments: Any) -> None:
        super().__init__(*args, backend_config=VisibleGpus(), **arguments)
        self._goes_on, self._shares = goes_on, shares

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        """All but those which start a process for nothing."""
        needless: list[type[RayTrainCallback]] = [DatasetsCallback]  # workers make streams of their own
        # The cleaner asks the dashboard; without one it learns nothing, and the end waits for it.
        if not (self._goes_on and get_dashboard_url()):
            needless.append(PlacementGroupCleanerCallback)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, tuple(needless))]

    def _initialize_and_run_controller(self, **arguments: Any) -> ray.train.Result:
        if not self._shares:
            arguments["scaling_policy"] = _Alone(arguments["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**arguments)

    def _register_sigint_handler(self, controller: ActorHandle) -> None:
        self._controller = controller

    def fit(self) -> ray.train.Result:
        before = _own_groups() if self._goes_on else set()
        try:
            return super().fit()
        except KeyboardInterrupt:
            if hasattr(self, "_controller"):
                ray.kill(self._controller)  # it may wait for workers, which end with it
            if self._goes_on:
                time.sleep(KILL_SECONDS)
                for group in _own_groups() - before:  # the room of its workers
                    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
            raise


def _own_groups() -> set[str]:
    """The placement groups of this process and its actors: an id ends with that of the job."""
    job = ray.get_runtime_context().get_job_id()
    return {
        group
        for group, entry in placement_group_table().items()
        if group.endswith(job) and entry["state"] != "REMOVED"
    }
