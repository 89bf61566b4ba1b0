"""Begins a run with the weights of another one, whose users and items may be others.

Legend: R rows of a table that stay, H held-out interactions, E interactions of a shard.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from adar_ray.config import Config, is_structural
from adar_ray.custom import is_custom
from adar_ray.data.dataset import Dataset
from adar_ray.data.keys import UNKNOWN, numbers_of
from adar_ray.distributed import rank, world_size
from adar_ray.errors import AdarError, counted
from adar_ray.interactions.user_items import UserItems
from adar_ray.models.user_tables import get_tensor, user_tables
from adar_ray.process import random_states_kept
from adar_ray.storage import Folder
from adar_ray.training.build import build_model
from adar_ray.training.find_model import find_model
from adar_ray.training.published import Published
from adar_ray.training.records import WarmStart
from adar_ray.training.run import Initial, Run
from adar_ray.training.saved_model import SavedModel

logger = logging.getLogger(__name__)

_ADVICE = "or train without --init-from"


def initial_weights(
    source: str | Path | Run, config: Config, dataset: Dataset, *, trust: bool = False
) -> Initial | None:
    """What a run on `dataset` takes over from another model: the vectors of users and items with the same
    ids, and all weights that belong to no user or item.

    Args:
        source: a run, a copy of its `model/`, or a folder of published models, at any address.
        trust: whether `source` may name custom components.

    Returns:
        None if `source` is a folder of published models that was created and has none yet.

    Raises:
        AdarError: there is no model, it is damaged, or its weights would not fit.
    """
    if not isinstance(source, Run):
        published = Published.at(source)
        if published.is_there() and published.current() is None:
            logger.warning("%s: nothing is published there yet; all weights are drawn at random", source)
            return None
    saved = find_model(source, trust=trust)
    origin = (source.folder if isinstance(source, Run) else Folder.at(source)).address
    before = saved.dataset
    _check_settings(origin, saved.config, config)
    tables = _check_weights(origin, saved, config, dataset)
    new_user = numbers_of(before.user_keys(), dataset.user_keys())
    new_item = numbers_of(before.item_keys(), dataset.item_keys())
    new_feature = numbers_of(*(pa.chunked_array([each.vocabulary.keys()]) for each in (before, dataset)))
    tensors = {}
    for kind, new in (("users", new_user), ("items", new_item), ("features", new_feature)):
        stays_R = torch.from_numpy(np.flatnonzero(new != UNKNOWN))
        tensors[kind] = torch.from_numpy(new)[stays_R]
        for name in tables[kind]:
            table = saved.weights[name]
            tensors[f"model.{name}"] = torch.cat([table[stays_R], table[len(new) :]])
    for name, tensor in saved.weights.items():
        tensors.setdefault(f"model.{name}", tensor)
    content = save_safetensors(tensors)
    record = WarmStart(
        run=origin,
        users=len(tensors["users"]) if tables["users"] else None,
        items=len(tensors["items"]) if tables["items"] else None,
        held_out=_trained_on(before, dataset, new_user, new_item),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return Initial(content, record)


@torch.no_grad()
def load_initial_weights(run: Run, dataset: Dataset, model: nn.Module, begin: int) -> None:
    """Puts what `initial_weights` has made into a worker's model, whose other rows stay as they are drawn.

    Args:
        begin: the user of the first row of the model's user tables.
    """
    tensors = run.initial_weights()
    if tensors is None:
        return
    for name in model.state_dict():
        weight, new = get_tensor(model, name), tensors[f"model.{name}"]
        if name in user_tables(model):
            row_R = _rows(tensors["users"], dataset.n_users, len(new)) - begin
            is_here_R = (row_R >= 0) & (row_R < len(weight))
            weight[row_R[is_here_R]] = new[is_here_R].to(weight.device)
        elif name in item_tables(model):
            row_R = _rows(tensors["items"], dataset.n_items, len(new))
            table = model.get_submodule(name.rpartition(".")[0])
            of, size = (rank(), world_size()) if getattr(table, "is_sharded", False) else (0, 1)
            is_here_R = row_R % size == of
            weight[row_R[is_here_R] // size] = new[is_here_R].to(weight.device)
        elif name in feature_tables(model):
            weight[tensors["features"].to(torch.int64)] = new.to(weight.device)
        else:
            weight.copy_(new)


def _rows(stays_R: torch.Tensor, count: int, total: int) -> torch.Tensor:
    """The rows of a table that `total` vectors go to: those that stay, and what follows those of ids, such as
    a vector for masked items."""
    return torch.cat([stays_R, torch.arange(count, count + total - len(stays_R))]).to(torch.int64)


def item_tables(model: nn.Module) -> Collection[str]:
    """Names of the tensors with a row for each item."""
    named: Collection[str] = getattr(model, "item_tables", ("item.weight",))
    return model.state_dict().keys() & set(named)


def feature_tables(model: nn.Module) -> Collection[str]:
    """Names of the tensors with a row for each feature of items."""
    named: Collection[str] = getattr(model, "feature_tables", ())
    return named


def note_on_warm_start(run: Run, dataset: Dataset) -> str | None:
    """A line for people about what a run keeps of another one; None if it began with random weights."""
    initial = run.info.initial
    if initial is None:
        return None
    kept = [
        f"{count:,} of {total:,} {kind}"
        for count, total, kind in (
            (initial.users, dataset.n_users, "users"),
            (initial.items, dataset.n_items, "items"),
        )
        if count is not None
    ]
    line = f"kept the vectors of {' and '.join(kept)} from {initial.run}"
    if initial.held_out:
        line += (
            f", which has trained on {counted(initial.held_out, 'interaction')} of validation or test here: "
            "their figures are too high"
        )
    return line


def _check_settings(origin: str, before: Config, now: Config) -> None:
    """Refuses a model whose weights are of another shape or meaning."""
    old, new = before.used(), now.used()
    for section in ("model", before.model.name):
        for key, value in old.get(section, {}).items():
            there = new.get(section, {}).get(key)
            if there != value and is_structural(f"{section}.{key}"):
                raise AdarError(
                    f"{origin}: has {section}.{key} {value}, this run {there}, so weights would not fit; add "
                    f"--set {section}.{key}={value}, {_ADVICE}"
                )


def _check_weights(origin: str, saved: SavedModel, config: Config, dataset: Dataset) -> dict[str, set[str]]:
    """The names of tables with rows of users, of items, and of features; refuses weights that do not fit."""
    before, nothing = saved.dataset, torch.empty(0, dtype=torch.int64)
    knows_all = is_custom(config.model.name)
    counts = {"users": dataset.n_users, "items": dataset.n_items} if knows_all else {"users": 1, "items": 1}
    counts["features"] = len(dataset.vocabulary)
    with random_states_kept():  # only names and shapes count
        model = build_model(config, UserItems(nothing, nothing, 1, 1), dataset)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if shapes.keys() != saved.weights.keys():
        other = min(shapes.keys() ^ saved.weights.keys())
        raise AdarError(f"{origin}: only one of its model and this run's has {other}; use the same model")
    tables = {
        "users": set(user_tables(model)),
        "items": set(item_tables(model)),
        "features": set(feature_tables(model)),
    }
    old_counts = {"users": before.n_users, "items": before.n_items, "features": len(before.vocabulary)}
    for name, tensor in saved.weights.items():
        kind = next((kind for kind in tables if name in tables[kind]), None)
        old, new = list(tensor.shape), list(shapes[name])
        if kind is not None:
            old[0], new[0] = old[0] - old_counts[kind], new[0] - counts[kind]
        elif knows_all and old and old[0] in old_counts.values():
            raise AdarError(
                f"{origin}: {name} has as many rows as there are users or items; name it in the model's "
                f"user_tables or item_tables, {_ADVICE}"
            )
        if old != new:
            lengths = before.sequences.length, dataset.sequences.length
            why = (
                ""
                if lengths[0] == lengths[1]
                else " (prepared with --sequence-length {}, not {})".format(*lengths)
            )
            raise AdarError(
                f"{origin}: {name} has the shape {list(tensor.shape)}, which does not fit this run{why}; "
                f"use the same model, {_ADVICE}"
            )
    return tables


def _trained_on(before: Dataset, now: Dataset, new_user: np.ndarray, new_item: np.ndarray) -> int:
    """How many of the interactions that are held out now were trained on before; 0 if users are to repeat
    themselves."""
    if now.keeps_repeats:
        return 0
    held_out = (now.read_split(split) for split in ("valid", "test"))
    held_H = np.concatenate([user.astype(np.int64) * now.n_items + item for user, item in held_out])
    if not len(held_H):
        return 0
    held_H, times_H = np.unique(held_H, return_counts=True)
    is_known_H = np.zeros(len(held_H), bool)
    for shard in before.shards("train"):
        user_E, item_E = before.read_shard(shard)
        user_E, item_E = new_user[user_E], new_item[item_E]
        stays_E = (user_E != UNKNOWN) & (item_E != UNKNOWN)
        pair_E = user_E[stays_E] * now.n_items + item_E[stays_E]
        at_E = np.searchsorted(held_H, pair_E).clip(max=len(held_H) - 1)
        is_known_H[at_E[held_H[at_E] == pair_E]] = True
    return int(times_H[is_known_H].sum())
