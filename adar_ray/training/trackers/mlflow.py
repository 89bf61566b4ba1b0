"""Runs in MLflow, through its own client. MLFLOW_TRACKING_URI says where."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adar_ray.errors import AdarError, without_secrets
from adar_ray.process import environment_kept
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord, Evaluation, RunResult
from adar_ray.training.run import CONFIG, RESULT, Run
from adar_ray.training.trackers import PROJECT, SearchEnd, address_of, check_installed, settings_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "mlflow"
_MOST_PARAMS = 100  # in a request


def check(key: str) -> None:
    """Refuses to track without MLflow, or without its address: it would write into the working directory.

    Raises:
        AdarError: says what is missing.
    """
    check_installed(key, NAME)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise AdarError(
            f"{key} {NAME}: set MLFLOW_TRACKING_URI, such as http://HOST:5000, in the environment of every "
            "process that trains"
        )


class MlflowTracker:
    """A run's parameters, its metrics by epoch, its result and test metrics, `config.yaml`, `result.json`.

    A parameter keeps its first value, as MLflow wants it; `config.yaml` tells what a resumption changed.
    """

    def __init__(self, run: Run) -> None:
        """Sends what MLflow does not have yet; an interruption may have kept some of it from coming."""
        from mlflow.entities import Param

        self._client, self._id = _opened(run)
        self._client.update_run(self._id, status="RUNNING")
        known = self._client.get_run(self._id).data.params
        params = [Param(name, value) for name, value in settings_of(run).items() if name not in known]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + _MOST_PARAMS])
        self._client.log_text(self._id, without_secrets(run.folder.read_bytes(CONFIG).decode()), CONFIG)
        told = {metric.step for metric in self._client.get_metric_history(self._id, "loss")}
        for record in run.epochs():
            if record.epoch not in told:
                self.on_epoch(record)

    def on_epoch(self, record: EpochRecord) -> None:
        _log(self._client, self._id, record.figures(), record.epoch)

    def on_end(self, result: RunResult | None) -> None:
        if result is not None:
            best = {f"best/{name}": value for name, value in (result.valid or {}).items()}
            _log(self._client, self._id, best, result.best_epoch)
            self._client.log_dict(self._id, result.model_dump(exclude_none=True), RESULT)
        _terminate(self._client, self._id, result is not None)

    @staticmethod
    def send_evaluation(run: Run, evaluation: Evaluation) -> None:
        _log(*_opened(run), evaluation.figures(), 0)

    @staticmethod
    def begin_search(folder: Folder, run_id: str | None) -> str:
        """The id of the run whose children a search's trials are; it begins there unless it has before."""
        from mlflow import MlflowClient

        client = MlflowClient()
        if run_id is None:
            return client.create_run(_experiment(client), run_name=address_of(folder)).info.run_id
        client.update_run(run_id, status="RUNNING")
        return run_id

    @staticmethod
    def end_search(folder: Folder, run_id: str, end: SearchEnd | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient()
        if end is not None:
            known = client.get_run(run_id).data.params
            params = [Param(key, str(value)) for key, value in end.values.items() if key not in known]
            client.log_batch(run_id, params=params)
            _log(client, run_id, end.figures, 0)
        _terminate(client, run_id, end is not None)


def _opened(run: Run) -> tuple[MlflowClient, str]:
    """A client, and MLflow's id of the run, which begins there unless it has before."""
    from mlflow import MlflowClient

    client, run_id = MlflowClient(), run.tracker_id(NAME)
    if run_id is None:
        parent = run.tracker_parent(NAME)
        tags = {} if parent is None else {"mlflow.parentRunId": parent}
        run_id = client.create_run(
            _experiment(client), tags=tags, run_name=address_of(run.folder)
        ).info.run_id
        run.write_tracker_id(NAME, run_id)
    return client, run_id


def _experiment(client: MlflowClient) -> str:
    from mlflow import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:  # another run may have been faster
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id


def _terminate(client: MlflowClient, run_id: str, is_over: bool) -> None:
    # MLflow would print where the run can be seen to stdout, where the command prints its result.
    with environment_kept(MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true"):
        client.set_terminated(run_id, "FINISHED" if is_over else "KILLED")


def _log(client: MlflowClient, run_id: str, figures: Mapping[str, float], step: int) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    # MLflow allows no @ in a name.
    metrics = [Metric(name.replace("@", "_"), value, now, step) for name, value in figures.items()]
    client.log_batch(run_id, metrics)
