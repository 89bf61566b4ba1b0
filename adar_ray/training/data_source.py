"""Where a training loop gets its rows: from memory, or read again each epoch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.config import Config
from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.data.order import ReadShard, Rows, shard_order, stripe
from adar_ray.errors import AdarError
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.user_items import UserItems
from adar_ray.training.build import is_sequential
from adar_ray.training.loop import Stripes, TrainingData, Worker

KEPT_IDS = 128_000_000  # 512 MiB in each worker


def training_shards(config: Config, dataset: Dataset) -> tuple[list[int], ReadShard]:
    """The number of rows in each shard that the model trains on, and a function that reads a shard.

    Rows are interactions, or sequence rows if the model is sequential.

    Raises:
        AdarError: the model is sequential and there are no sequence rows.
    """
    sequential = is_sequential(config)
    if sequential and not dataset.sequences.rows:
        raise AdarError(
            f"{dataset.folder}: no user has two training interactions, so there is no sequence for "
            f"model.name {config.model.name}; train another model, or prepare with another --split"
        )
    shards = dataset.shards(SEQUENCES if sequential else "train")
    read = dataset.read_sequences if sequential else dataset.read_shard
    return [shard.rows for shard in shards], lambda number: read(shards[number])


def keeps_data(config: Config, dataset: Dataset) -> bool:
    """Whether workers keep the training rows in memory after the first pass."""
    if config.data.cache == "auto":
        ids_a_row = dataset.sequences.length + 2 if is_sequential(config) else 2
        return sum(training_shards(config, dataset)[0]) * ids_a_row <= KEPT_IDS
    return config.data.cache == "always"


@dataclass(frozen=True)
class Loaded:
    """The rows of a dataset that training needs, in memory. Several runs may share them.

    Attributes:
        shards: rows that the model trains on, by shard.
        train, valid: interactions.
    """

    dataset: Dataset
    shards: list[Rows]
    train: Rows
    valid: Rows


def load(config: Config, dataset: Dataset, shards: list[Rows] | None = None) -> Loaded:
    """Reads the rows that training with this configuration needs.

    Args:
        shards: the training rows, by shard, if they have been read before.
    """
    shard_rows, read_shard = training_shards(config, dataset)
    shards = shards or [read_shard(shard) for shard in range(len(shard_rows))]
    if is_sequential(config):
        train = dataset.read_split("train")
    else:
        users, items = (np.concatenate(part) for part in zip(*shards, strict=True))
        train = users, items
    return Loaded(dataset, shards, train, dataset.read_split("valid"))


def kept_data(config: Config, loaded: Loaded, worker: Worker) -> TrainingData:
    """Training data from rows in memory."""
    shards = loaded.shards
    stripes = functools.partial(_stripes, shards.__getitem__, len(shards), config.train.seed, worker)
    return _training_data(config, loaded.dataset, stripes, loaded.train, loaded.valid)


def streamed_data(config: Config, dataset: Dataset, stripes: Stripes) -> TrainingData:
    """Training data from given stripes. Only the look-up of observed pairs is kept in memory."""
    return _training_data(config, dataset, stripes, dataset.read_split("train"), dataset.read_split("valid"))


def _training_data(
    config: Config, dataset: Dataset, stripes: Stripes, train: Rows, valid: Rows
) -> TrainingData:
    if config.train.valid_users:
        valid = of_some_users(valid, config.train.valid_users)
    # Copies: rows from Ray's object store are read-only, which torch warns about.
    (user, item), (valid_user, valid_item) = (map(torch.tensor, rows) for rows in (train, valid))
    sizes = dataset.n_users, dataset.n_items
    length = dataset.sequences.length
    return TrainingData(
        dataset=dataset,
        shard_rows=np.array(training_shards(config, dataset)[0]),
        stripes=stripes,
        observed=UserItems(user, item, *sizes),
        valid=UserItems(valid_user, valid_item, *sizes),
        history=Histories(user, item, dataset.n_users, length) if is_sequential(config) else None,
    )


def of_some_users(rows: Rows, limit: int) -> Rows:
    """All rows of `limit` random users, the same ones every time; all rows if there are fewer users."""
    user, item = rows
    different = np.unique(user)
    if len(different) <= limit:
        return rows
    kept = np.isin(user, np.random.default_rng(0).choice(different, limit, replace=False))
    return user[kept], item[kept]


def local_data(config: Config, dataset: Dataset, worker: Worker) -> TrainingData:
    """Training data that this process reads by itself, without Ray."""
    if keeps_data(config, dataset):
        return kept_data(config, load(config, dataset), worker)
    shard_rows, read_shard = training_shards(config, dataset)
    stripes = functools.partial(_stripes, read_shard, len(shard_rows), config.train.seed, worker)
    return streamed_data(config, dataset, stripes)


def _stripes(read_shard: ReadShard, n_shards: int, seed: int, worker: Worker, epoch: int) -> Iterator[Rows]:
    for shard in shard_order(n_shards, seed, epoch):
        yield stripe(*read_shard(shard), seed, epoch, int(shard), worker.rank, worker.size)
