"""Spaces for tests, what a study draws from them, and how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.tuning.folder import Search
from adar_ray.tuning.process import quiet_optuna
from adar_ray.tuning.space import Space

BETA = {"adar.beta": {"uniform": [0.5, 0.95]}}
LR = {"optimizer.lr": {"loguniform": [1e-4, 1e-2]}}


def space(parameters: dict[str, Any] = BETA, **more: Any) -> Space:
    return Space.from_mapping({"parameters": parameters, **more}, "file")


def draw(a_space: Space, n: int) -> list[dict[str, Any]]:
    with quiet_optuna():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        return [a_space.suggest(study.ask()) for _ in range(n)]


def refusal(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """The message of the AdarError that a call raises; it has to be a single line."""
    with pytest.raises(AdarError) as caught:
        call(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def a_search(tmp_path: Path, **more: Any) -> Search:
    fields = {
        "folder": Folder.at(tmp_path / "search"),
        "space": space({"adar.beta": {"uniform": [0.5, 0.9]}}),
        "data": "data",
        "checksum": "",
        "settings": (),
        "trials": 20,
        "seconds": None,
        "concurrent": None,
        "workers": 1,
        "retries": 0,
        "seeds": 0,
    }
    return Search(**fields | more)
