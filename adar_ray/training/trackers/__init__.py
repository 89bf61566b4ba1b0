"""Trackers of experiments: callbacks that send a run's settings and figures to MLflow or Weights & Biases.

A tracker keeps its id of the run in the run folder, so that a run which resumes goes on in the same one.
Addresses and credentials are those of the library's own environment variables, and are written nowhere.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from adar_ray.errors import AdarError, without_secrets
from adar_ray.storage import Folder
from adar_ray.training.run import Run

PROJECT = "adar-ray"


@dataclass(frozen=True)
class SearchEnd:
    """What came of a search, whose trials are parts of it in a tracker.

    Attributes:
        figures: of the best trial, by names such as `best/ndcg@20`.
        values: which trial that is, and its values of the parameters, by `section.key`.
    """

    figures: dict[str, float]
    values: dict[str, object]


def check_installed(key: str, module: str) -> None:
    """Refuses a tracker whose library is not there.

    Args:
        module: of the library, and name of the extra that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise AdarError(f"{key} {module}: is not installed; install 'adar-ray[{module}]' wherever it trains")


def address_of(folder: Folder) -> str:
    """What trackers and metrics call a run or a search: its address, which no two share."""
    return without_secrets(folder.address)


def settings_of(run: Run) -> dict[str, str]:
    """All settings in use by `section.key`, and what the run was trained on."""
    about = {"run.dataset": run.info.dataset, "run.workers": run.info.workers}
    return {name: without_secrets(str(value)) for name, value in (run.config.used_by_key() | about).items()}
