"""Loads a run's best model, ready to rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.data.dataset import Dataset
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.models import BaseModel
from adar_ray.process import random_states_kept
from adar_ray.training.build import build_model, is_sequential
from adar_ray.training.run import Run


@dataclass(frozen=True)
class TrainedModel:
    """A run's best model, ready to rank.

    Attributes:
        observed: the training interactions.
        sequential: whether it reads histories.
    """

    model: BaseModel
    observed: UserItems
    dataset: Dataset
    sequential: bool

    @classmethod
    def load(cls, run: Run) -> TrainedModel:
        dataset = run.dataset()
        observed = user_items(dataset, "train")
        with random_states_kept():  # the initial weights are drawn, then replaced
            model = build_model(run.config, observed, dataset)
        model.load_state_dict(run.weights())
        model.eval()
        return cls(model, observed, dataset, is_sequential(run.config))

    def history(self, *splits: str) -> Histories | None:
        """Users' histories over the given splits; None if the model reads none.

        The splits follow one another, each in order of time. Unless they were drawn at random, that is the
        order of time overall.
        """
        if not self.sequential:
            return None
        length = self.dataset.sequences.length
        return Histories(*_interactions(self.dataset, *splits), self.dataset.n_users, length)


def user_items(dataset: Dataset, *splits: str) -> UserItems:
    """All interactions of the given splits."""
    return UserItems(*_interactions(dataset, *splits), dataset.n_users, dataset.n_items)


def _interactions(dataset: Dataset, *splits: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Users and items, one split after the other."""
    parts = [(np.empty(0, np.int32),) * 2, *(dataset.read_split(split) for split in splits)]
    user, item = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    return user, item
