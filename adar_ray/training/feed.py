"""What a worker's training loop feeds on: interactions kept in memory, or read anew each epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.data.order import shard_order, stripe
from adar_ray.training.loop import TrainingData, Worker
from adar_ray.user_items import UserItems

KEPT_INTERACTIONS = 64_000_000  # 512 MiB of ids in each worker

Pairs = tuple[np.ndarray, np.ndarray]
Stripes = Callable[[int], Iterable[Pairs]]


def keeps_data(config: Config, dataset: Dataset) -> bool:
    """Whether workers keep the training interactions after the first pass."""
    if config.data.cache == "auto":
        return dataset.rows("train") <= KEPT_INTERACTIONS
    return config.data.cache == "always"


def kept_data(config: Config, dataset: Dataset, shards: list[Pairs], worker: Worker) -> TrainingData:
    """From all training shards, in memory."""
    users, items = (np.concatenate(part) for part in zip(*shards, strict=True))
    stripes = functools.partial(_stripes, shards.__getitem__, len(shards), config.train.seed, worker)
    return streamed_data(dataset, stripes, (users, items))


def streamed_data(dataset: Dataset, stripes: Stripes, train: Pairs | None = None) -> TrainingData:
    """From stripes that come from somewhere; only the look-up of observed pairs is kept."""

    def user_items(user: np.ndarray, item: np.ndarray) -> UserItems:
        return UserItems(torch.from_numpy(user), torch.from_numpy(item), dataset.n_users, dataset.n_items)

    return TrainingData(
        shard_rows=[shard["rows"] for shard in dataset.shards("train")],
        stripes=stripes,
        observed=user_items(*(train or dataset.read_split("train"))),
        valid=user_items(*dataset.read_split("valid")),
    )


def local_data(config: Config, dataset: Dataset, worker: Worker) -> TrainingData:
    """Read by this process itself, without Ray."""
    n_shards = len(dataset.shards("train"))
    read_shard = functools.partial(dataset.read_shard, "train")
    if keeps_data(config, dataset):
        return kept_data(config, dataset, [read_shard(shard) for shard in range(n_shards)], worker)
    stripes = functools.partial(_stripes, read_shard, n_shards, config.train.seed, worker)
    return streamed_data(dataset, stripes)


def _stripes(
    read_shard: Callable[[int], Pairs], n_shards: int, seed: int, worker: Worker, epoch: int
) -> Iterator[Pairs]:
    for shard in shard_order(n_shards, seed, epoch):
        yield stripe(*read_shard(shard), seed, epoch, int(shard), worker.rank, worker.size)
