"""From a configuration to a model, a loss, samplers, an optimizer, and a metric of the user's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adar_ray.component import ModelInputs, SamplerInputs
from adar_ray.config import Config, parse_metric
from adar_ray.custom import build_custom, build_custom_function, find_custom, is_custom
from adar_ray.data.dataset import Dataset
from adar_ray.data.vocabulary import FeatureRows
from adar_ray.errors import AdarError, ComponentError
from adar_ray.interactions.item_features import ItemFeatures
from adar_ray.interactions.user_items import UserItems
from adar_ray.interactions.users import Users
from adar_ray.metrics import METRICS
from adar_ray.models.dot_product import DotProductModel
from adar_ray.models.user_tables import draw_by_lane, user_tables
from adar_ray.ranking.own_metrics import OwnMetric
from adar_ray.registry import LOSSES, MODELS, SAMPLERS
from adar_ray.training.optimizer import Adam
from adar_ray.training.step import Loss

_METHODS = ("users", "items", "score")


def is_sequential(config: Config) -> bool:
    """Whether the base model reads histories. A custom model says so by `sequential = True` on its
    callable."""
    name = config.model.name
    if name in MODELS:
        return MODELS[name].is_sequential
    return bool(getattr(find_custom("model.name", name), "sequential", False))


def reads_features(config: Config) -> bool:
    """Whether the base model reads items' features. A custom model may."""
    name = config.model.name
    return MODELS[name].reads_features if name in MODELS else True


def trains_own_users(config: Config) -> bool:
    """Whether a worker's model needs to know its own users only. A custom model is built for all."""
    return config.model.name in MODELS


def build_model(
    config: Config, observed: UserItems, dataset: Dataset | None = None, users: Users | None = None
) -> Any:
    """The base model that the configuration names, newly initialized.

    Args:
        observed: the training interactions.
        dataset: for sequential models, whose histories have its length, for items' features, and for custom
            models.
        users: the users of `observed`; all by default.

    Raises:
        AdarError: a custom model cannot be imported, lacks a method, or cannot be trained.
    """
    name = config.model.name
    if name not in MODELS:
        return _checked(name, build_custom("model.name", name, dataset, config))
    if dataset is not None:
        check_features(config, dataset)
    inputs = ModelInputs(
        observed=observed,
        embedding_dim=config.model.embedding_dim,
        cosine=config.model.cosine,
        history_length=dataset.sequences.length if dataset is not None else 0,
        first_user=0 if users is None else users.first,
        sharded=config.model.tables == "sharded",
        features=_item_features(dataset) if dataset is not None and reads_features(config) else None,
    )
    model = MODELS[name].build(inputs, config.settings_of(name))
    if isinstance(model, DotProductModel):  # read by rankings alone, so that no constructor has to pass it on
        model.length_power = config.model.length_power
    if users is not None:
        draw_by_lane(model, users, users.first)
    return model


def check_features(config: Config, dataset: Dataset) -> None:
    """Refuses a built-in model that reads features with a dataset that has none."""
    if config.model.name in MODELS and reads_features(config) and not dataset.has_features:
        raise AdarError(
            f"{dataset.folder}: has no features of items, which {config.model.name} reads; prepare it with "
            "--items, or choose another model.name"
        )


def _item_features(dataset: Dataset) -> ItemFeatures:
    return to_item_features(dataset.vocabulary.encode(dataset.item_features()))


def to_item_features(rows: FeatureRows) -> ItemFeatures:
    """Encoded features as models have them."""
    start, feature_E, value_E = map(torch.from_numpy, (rows.start, rows.feature_E, rows.value_E))
    return ItemFeatures(start, feature_E, value_E, rows.n_features)


def _checked(name: str, model: Any) -> nn.Module:
    missing = [method for method in _METHODS if not callable(getattr(model, method, None))]
    if missing or not isinstance(model, nn.Module):
        wanted = f"a method {missing[0]}" if missing else "torch.nn.Module as a base"
        raise ComponentError(f"model.name {name}: {type(model).__name__} lacks {wanted}")
    trained = {key: weight.dtype for key, weight in model.named_parameters() if weight.requires_grad}
    if not trained:
        raise ComponentError(f"model.name {name}: {type(model).__name__} lacks a parameter to train")
    for key, dtype in trained.items():
        if dtype not in (torch.float32, torch.float64):
            raise ComponentError(f"model.name {name}: its parameter {key} is {dtype}; make it float32")
    return model


def build_loss(config: Config, n_items: int, dataset: Dataset | None = None) -> Loss:
    """The loss that the configuration names, for a catalog of `n_items`."""
    name = config.loss.name
    if name not in LOSSES:
        return Loss(build_custom_function("loss.name", name, dataset, config))
    component, settings = LOSSES[name], config.settings_of(name).for_catalog(n_items)
    return Loss(
        component.build(settings),
        temperature=component.temperature(settings) if component.temperature else 1.0,
        is_softmax=component.is_softmax,
    )


def build_samplers(
    config: Config,
    model: Any,
    observed: UserItems,
    dataset: Dataset | None = None,
    users: Users | None = None,
) -> nn.ModuleList:
    """The loss's sampler, then the one that joins it, if any; the last one is studied. Takes the arguments of
    `build_model`."""
    loss = LOSSES.get(config.loss.name)
    shared = (
        loss.shared_negatives(config.settings_of(loss.name))
        if loss is not None and loss.shared_negatives
        else None
    )
    inputs = SamplerInputs(model, observed, shared)

    def build(name: str) -> nn.Module:
        if name in SAMPLERS:
            return SAMPLERS[name].build(inputs, config.settings_of(name))
        sampler = build_custom("sampler.name", name, dataset, config)
        if not isinstance(sampler, nn.Module):
            raise ComponentError(
                f"sampler.name {name}: {type(sampler).__name__} lacks torch.nn.Module as a base"
            )
        return sampler

    samplers = nn.ModuleList(build(name) for name in config.sampler_names())
    for sampler in samplers:
        if users is not None:
            draw_by_lane(sampler, users, users.first if trains_own_users(config) else 0)
    return samplers


def build_metric(metric: str, dataset: Dataset, config: Config) -> dict[str, OwnMetric]:
    """The function of a metric that may be `train.metric`, by its name; none if it is not the user's own."""
    name = parse_metric(metric)[0]
    return {} if name in METRICS else {name: build_custom_function("train.metric", name, dataset, config)}


def check_components(config: Config) -> None:
    """Refuses custom components that cannot be imported, or called as they will be."""
    named = {
        "model.name": config.model.name,
        "loss.name": config.loss.name,
        "sampler.name": config.sampler.name,
        "train.metric": parse_metric(config.train.metric)[0],
    }
    for key, name in named.items():
        if is_custom(name):
            find_custom(key, name)


def build_optimizer(config: Config, model: nn.Module, samplers: nn.Module) -> Adam:
    """Adam for everything that can be learned."""
    loss = LOSSES.get(config.loss.name)
    takes_all_items = loss is not None and loss.takes_all_items
    modules = nn.ModuleDict({"model": model, "samplers": samplers})
    own = [f"model.{name}" for name in user_tables(model)]
    settings = config.optimizer
    return Adam(
        modules,
        settings.lr,
        by_rows=not takes_all_items,
        own=own,
        clip=settings.clip,
        weight_decay=settings.weight_decay,
    )
