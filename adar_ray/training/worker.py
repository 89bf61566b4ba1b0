"""One of the workers of a run, and what it trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.data.dataset import Dataset
from adar_ray.data.order import Chunks
from adar_ray.distributed import sum_over_workers
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.pair_weights import PairWeights
from adar_ray.interactions.user_items import UserItems
from adar_ray.interactions.users import Users


@dataclass(frozen=True)
class Worker:
    """One of `size` workers, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the elementwise sum over all workers."""
        if self.size == 1:
            return tensor
        total = tensor.detach().to(self.device, copy=True)
        sum_over_workers([total])
        return total.to(tensor.device)


@dataclass(frozen=True)
class TrainingData:
    """What a worker trains on.

    Attributes:
        dataset: the dataset that everything else was read from.
        users: the worker's own.
        begin: the user that has id 0 here: the first of the worker's own, or of all for a custom model.
        lane_rows: rows of each lane of the dataset, `[L]`: interactions, or sequence rows.
        chunks: the worker's rows of an epoch (see `data.order`). The loop asks for one epoch after the other.
        observed: the users' training interactions.
        valid: interactions that decide which epoch is best; may be empty.
        history: the users' training histories, for validating a sequential model; else None.
        weights: of the training interactions; None if they have none.
    """

    dataset: Dataset
    users: Users
    begin: int
    lane_rows: np.ndarray
    chunks: Chunks
    observed: UserItems
    valid: UserItems
    history: Histories | None
    weights: PairWeights | None
