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
