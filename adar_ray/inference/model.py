"""A run's best model, loaded and ready to rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.data.dataset import Dataset
from adar_ray.models import BaseModel
from adar_ray.training.build import build_model
from adar_ray.training.run import Run
from adar_ray.user_items import UserItems


@dataclass(frozen=True)
class TrainedModel:
    """A run's best model, ready to rank.

    Attributes:
        observed: the interactions it was trained on.
    """

    model: BaseModel
    observed: UserItems
    dataset: Dataset

    @classmethod
    def load(cls, run: Run) -> TrainedModel:
        dataset = run.dataset()
        observed = user_items(dataset, "train")
        model = build_model(run.config, observed)
        model.load_state_dict(run.weights())
        model.eval()
        return cls(model, observed, dataset)


def user_items(dataset: Dataset, *splits: str) -> UserItems:
    """All interactions of the given splits; none of none."""
    parts = [(np.empty(0, np.int32),) * 2, *(dataset.read_split(split) for split in splits)]
    user, item = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return UserItems(user, item, dataset.n_users, dataset.n_items)
