"""Where a training loop gets its rows: from memory, or read again each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from adar_ray.config import Config
from adar_ray.data.chunks import WorkerRows
from adar_ray.data.dataset import SEQUENCES, Dataset
from adar_ray.data.order import Chunks, Rows
from adar_ray.errors import AdarError
from adar_ray.interactions.histories import Histories
from adar_ray.interactions.pair_weights import PairWeights
from adar_ray.interactions.user_items import UserItems
from adar_ray.interactions.users import Users
from adar_ray.training.build import is_sequential, trains_own_users
from adar_ray.training.worker import TrainingData, Worker

KEPT_IDS = 128_000_000  # 512 MiB in each worker


def training_kind(config: Config, dataset: Dataset) -> str:
    """What the model trains on: `train`, or `SEQUENCES` if it is sequential.

    Raises:
        AdarError: the model is sequential and there are no sequence rows.
    """
    if not is_sequential(config):
        return "train"
    if not dataset.sequences.rows:
        raise AdarError(
            f"{dataset.folder}: no user has two training interactions, so there is no sequence for "
            f"model.name {config.model.name}; train another model, or prepare with another --split"
        )
    return SEQUENCES


def training_rows(
    config: Config, dataset: Dataset, worker: Worker, kept: Mapping[str, Rows] | None = None
) -> WorkerRows:
    """A worker's rows that the model trains on.

    Args:
        kept: rows by name of the shard, if they are in memory.
    """
    kind = training_kind(config, dataset)
    return WorkerRows(dataset, kind, config.train.seed, worker.rank, worker.size, kept)


def keeps_data(config: Config, dataset: Dataset, workers: int) -> bool:
    """Whether workers keep the training rows in memory after the first pass."""
    if config.data.cache == "auto":
        kind = training_kind(config, dataset)
        ids_a_row = dataset.sequences.length + 2 if kind == SEQUENCES else 2
        rows = int(dataset.lane_rows(kind).sum()) // max(workers, 1)
        return rows * ids_a_row <= KEPT_IDS
    return config.data.cache == "always"


@dataclass(frozen=True)
class Loaded:
    """The rows of a dataset that training needs, in memory. Several runs may share them.

    Attributes:
        rows: those that the model trains on, by name of the shard.
        train, valid: interactions.
        weight_E: of the training interactions; None if they have none.
    """

    dataset: Dataset
    rows: Mapping[str, Rows]
    train: Rows
    valid: Rows
    weight_E: np.ndarray | None


def load(config: Config, dataset: Dataset) -> Loaded:
    """Reads the rows that training with this configuration needs."""
    rows = training_rows(config, dataset, Worker()).kept()
    train = dataset.read_split("train") if is_sequential(config) else rows.all_rows()
    assert rows.by_shard is not None
    return Loaded(dataset, rows.by_shard, train, dataset.read_split("valid"), _weights(rows))


def loaded_data(config: Config, loaded: Loaded) -> TrainingData:
    """Training data of a single worker from rows in memory."""
    rows = training_rows(config, loaded.dataset, Worker(), loaded.rows)
    return _training_data(config, rows, rows.epoch, loaded.train, loaded.valid, loaded.weight_E)


def local_data(config: Config, dataset: Dataset, worker: Worker) -> TrainingData:
    """Training data that this process reads by itself, without Ray."""
    rows = training_rows(config, dataset, worker)
    if keeps_data(config, dataset, worker.size):
        rows = rows.kept()
    return streamed_data(config, rows, rows.epoch)


def streamed_data(config: Config, rows: WorkerRows, chunks: Chunks) -> TrainingData:
    """Training data from given chunks. The look-up of observed pairs is kept in memory."""
    train = rows.all_rows() if rows.kind == "train" else _own(rows, "train").all_rows()
    return _training_data(config, rows, chunks, train, _own(rows, "valid").all_rows(), _weights(rows))


def _own(rows: WorkerRows, split: str) -> WorkerRows:
    return WorkerRows(rows.dataset, split, rows.seed, rows.worker, rows.workers)


def _weights(rows: WorkerRows) -> np.ndarray | None:
    """Of the worker's training interactions."""
    return None if rows.dataset.manifest.mean_weight is None else _own(rows, "train").all_weights()


def _training_data(
    config: Config,
    rows: WorkerRows,
    chunks: Chunks,
    train: Rows,
    valid: Rows,
    weight_E: np.ndarray | None,
) -> TrainingData:
    dataset = rows.dataset
    users = Users(rows.bounds, rows.first_lane, len(dataset.lanes.users), dataset.n_users)
    # A custom model knows nothing of workers: it has all users, and ids that count all.
    begin, count = (users.first, users.count) if trains_own_users(config) else (0, dataset.n_users)
    # Copies: rows from Ray's object store are read-only, which torch warns about.
    (user, item), (valid_user, valid_item) = (map(torch.tensor, part) for part in (train, valid))
    user, valid_user = user - begin, valid_user - begin
    observed, mean = UserItems(user, item, count, dataset.n_items), dataset.manifest.mean_weight
    return TrainingData(
        dataset=dataset,
        users=users,
        begin=begin,
        lane_rows=dataset.lane_rows(rows.kind),
        chunks=chunks,
        observed=observed,
        valid=UserItems(valid_user, valid_item, count, dataset.n_items),
        history=Histories(user, item, count, dataset.sequences.length) if is_sequential(config) else None,
        weights=None
        if weight_E is None or mean is None
        else PairWeights(observed, user, item, torch.from_numpy(weight_E), mean),
    )
