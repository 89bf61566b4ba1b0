"""How much memory training takes, estimated before it starts, and refused if the machine has less.

The estimate counts what is surely in memory at one time, so that what fits is not refused. Runs have taken up
to 1.8 times as much; docs/operating.md lists them.

Legend: D dimensions, B rows of the batch, K negatives of a positive.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from adar_ray.config import Config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, gigabytes
from adar_ray.process import usable_memory
from adar_ray.ray_address import joins_cluster
from adar_ray.registry import LOSSES, MODELS, SAMPLERS
from adar_ray.training.data_source import keeps_data, training_kind

# Bytes.
_PROCESS, _RAY = 0.3e9, 0.3e9  # of a worker without data, and what Ray adds to it
_LOADING, _LOOKED_UP = 60, 12  # of an interaction while it is loaded, and from then on
_ID = _NUMBER = 4

_STATES = 6  # of a weight: itself, Adam's two moments, and the checkpoint's copy of the three


class Part(NamedTuple):
    """A part of the memory that training takes.

    Attributes:
        what: it is.
        size: in bytes, of all workers together.
        remedy: what makes it smaller.
    """

    what: str
    size: float
    remedy: str


def check_memory(config: Config, dataset: Dataset, workers: int) -> None:
    """Refuse training that takes more memory than this machine has, if it happens here and on CPUs.

    Raises:
        AdarError: names the largest part, and what makes it smaller.
    """
    if (workers and joins_cluster()) or (config.train.device != "cpu" and torch.cuda.is_available()):
        return
    parts = footprint(config, dataset, workers)
    needed, has = sum(part.size for part in parts), usable_memory()
    if has is not None and needed > has:
        largest = max(parts, key=lambda part: part.size)
        raise AdarError(
            f"training takes at least {gigabytes(needed)} of memory, and this machine has {gigabytes(has)}; "
            f"the largest part is {largest.what} ({gigabytes(largest.size)}): {largest.remedy}"
        )


def footprint(config: Config, dataset: Dataset, workers: int) -> list[Part]:
    """What is in memory at one time. What a custom component takes is not known, and not counted."""
    processes = (_PROCESS + (_RAY if workers else 0)) * max(workers, 1)
    parts = [Part("the processes", processes, "ask for fewer --workers")]
    if config.model.name in MODELS:
        parts += [_weights(config, dataset), _batch(config, dataset)]
    if config.sampler.name == "srns":
        remembered = 2 * 16 * dataset.n_users * config.srns.memory
        parts.append(Part("what srns remembers of users", remembered, "lower srns.memory"))
    # Interactions are loaded before anything else.
    others = sum(part.size for part in parts[1:])
    return [*parts, _interactions(config, dataset, workers, others)]


def _weights(config: Config, dataset: Dataset) -> Part:
    model, D = config.model.name, config.model.embedding_dim
    layers = getattr(config.settings_of(model), "layers", 0)
    rows = dataset.n_items + (0 if MODELS[model].is_sequential else dataset.n_users)
    if MODELS[model].reads_features:
        rows += len(dataset.vocabulary)
    numbers = rows * D * _STATES * (2 if model == "neumf" else 1)  # two towers, each with a table
    if MODELS[model].is_graph:  # a gradient of all rows; counting layers' outputs too exceeds what runs take
        numbers += rows * D
    numbers += MODELS[model].layer_weights * layers * D**2 * (_STATES + 1)
    return Part("vectors and weights", numbers * _NUMBER, "lower model.embedding_dim")


def _interactions(config: Config, dataset: Dataset, workers: int, others: float) -> Part:
    rows, ids = _rows(config, dataset), 2
    if MODELS.get(config.model.name) and MODELS[config.model.name].is_sequential:
        ids += dataset.sequences.length
    kept = rows * ids * _ID if keeps_data(config, dataset, workers) else 0
    interactions = dataset.rows("train")
    size = max(interactions * _LOADING - others, interactions * _LOOKED_UP) + kept
    remedy = "set data.cache=never" if kept > size / 2 else "prepare fewer of them"
    return Part("the interactions", size, remedy)


def _batch(config: Config, dataset: Dataset) -> Part:
    model, D = config.model.name, config.model.embedding_dim
    B = min(config.train.batch_size, _rows(config, dataset)) / config.train.accumulate
    length, pairs = 0, 1.0
    if MODELS[model].is_sequential:  # a pair for each position, of which short histories have few
        length, pairs = dataset.sequences.length, dataset.rows("train") / _rows(config, dataset)
    # Else tables are read in place.
    has_vectors = model != "mf" or config.model.cosine or config.model.tables == "sharded"
    name, sampler = config.sampler.name, config.settings_of(config.sampler.name)
    K, candidates = (getattr(sampler, key, 1) for key in ("negatives", "candidates"))
    loss, samplers = LOSSES.get(config.loss.name), config.sampler_names()
    shared = 0.0
    if "in_batch" in samplers:
        shared = B * pairs
    elif loss is not None and loss.shared_negatives and any(_shares(each) for each in samplers):
        shared = loss.shared_negatives(config.settings_of(loss.name))
    if name == "adar":
        # What a softmax needs is freed before vectors have gradients.
        of_pair = 40 * K + config.adar.pool + ((2 if shared else 4) * D * _NUMBER if has_vectors else 0)
    else:
        of_pair = K * candidates * (2 + D) * _NUMBER if candidates > 1 else 0
        of_pair += 2 * (2 + K) * D * _NUMBER if has_vectors else 0
    of_pair += 2 * shared * _NUMBER
    if loss is not None and loss.takes_all_items:
        of_pair += 3 * dataset.n_items * _NUMBER
    layers = getattr(config.settings_of(model), "layers", 0)
    of_history = length * layers * MODELS[model].layer_activations * D * _NUMBER
    lower = [
        "train.batch_size",
        *(f"{name}.{key}" for key in ("negatives", "candidates", "pool") if hasattr(sampler, key)),
    ]
    remedy = f"lower {' or '.join(lower)}, or raise train.accumulate"
    return Part("a batch", B * (pairs * of_pair + of_history), remedy)


def _shares(sampler: str) -> bool:
    return sampler in SAMPLERS and SAMPLERS[sampler].shares


def _rows(config: Config, dataset: Dataset) -> int:
    return int(dataset.lane_rows(training_kind(config, dataset)).sum())
