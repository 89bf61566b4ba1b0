"""Models that nothing has trained, saved as a run saves its best one."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.model import user_items
from adar_ray.storage import Folder
from adar_ray.training.build import build_model
from adar_ray.training.records import RunResult
from adar_ray.training.run import Run
from adar_ray.training.saved_model import save_model


def save_untrained(
    folder: Path, dataset: Dataset, settings: list[str], weights: dict[str, torch.Tensor] | None = None
) -> Path:
    """Writes a model folder with the given weights, or with random ones."""
    config = load_config(settings=settings)
    if weights is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_model(config, user_items(dataset, "train"), dataset)
            weights = {name: tensor.normal_() for name, tensor in model.state_dict().items()}
    save_model(Folder.at(folder), config, dataset, save(weights))
    return folder


def save_run(
    folder: Path,
    dataset: Dataset,
    settings: list[str],
    valid: dict[str, float],
    weights: dict[str, torch.Tensor] | None = None,
) -> Run:
    """Writes a run that says that it is finished and what it has reached."""
    run = Run.create(folder, load_config(settings=settings), dataset, 0)
    save_untrained(folder / "model", dataset, settings, weights)
    write_result(run, valid)
    return run


def write_result(run: Run, valid: dict[str, float] | None) -> None:
    result = RunResult(best_epoch=1, epochs=1, valid=valid, train_seconds=1.0)
    run.folder.write_record("result.json", result)
