"""What is wrong with a space and the settings beside it, before anyone pays for a trial."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from adar_ray.config import read_setting
from adar_ray.errors import AdarError
from adar_ray.registry import MODELS
from adar_ray.training.build import check_components
from adar_ray.training.callbacks import check_callbacks
from adar_ray.tuning.combinations import combinations, pick_values
from adar_ray.tuning.space import Layer, Space

_TRIES = 1_000  # configurations to build, which takes some tenths of a second
_LARGEST_GRID = 10_000


def check_workers(space: Space, workers: int) -> None:
    """Refuse several workers per trial for a scheduler that cannot have them."""
    if workers > 1 and space.scheduler.name == "pbt":
        raise AdarError(
            f"--workers-per-trial {workers}: scheduler pbt moves weights between trials that train in one "
            "process each; begin with one worker per trial, or use another scheduler"
        )


def check_concurrent(space: Space, concurrent: int | None) -> None:
    """Refuse a number of trials at a time for a scheduler that needs all of them."""
    if concurrent is not None and space.scheduler.name == "pbt":
        raise AdarError(
            f"--concurrent {concurrent}: scheduler pbt pauses trials until all have come as far, so as many "
            "run as there is room for; leave it out, or use another scheduler"
        )


def check(space: Space, settings: Iterable[str] = ()) -> None:
    """Refuse a base, parameters and `settings` that do not fit together.

    Builds the configuration without any parameter, which says how long trials train and on how many threads;
    that of every combination of models, losses, samplers and optimizers; then that of every combination of
    choices and ends of ranges, or of a grid's values, or of 1,000 of them drawn at random.

    Raises:
        AdarError: names the key and what to do.
    """
    layers = [read_setting(setting) for setting in settings]
    for layer in layers:
        _check_layer(space, layer)
    asked = {other for parameter in space.parameters.values() for other in parameter.when}
    corners = {
        name: parameter.points() if name in asked else parameter.corners()
        for name, parameter in space.parameters.items()
    }
    names = {name: ends if name.endswith(".name") else ends[:1] for name, ends in corners.items()}
    if space.search.algorithm == "grid":
        corners = {name: parameter.points() for name, parameter in space.parameters.items()}
        if next(islice(combinations(space.parameters, corners), _LARGEST_GRID, None), None):
            raise AdarError(f"parameters: the grid has more than {_LARGEST_GRID} trials; give fewer values")
    common = space.config_over(layers, {})
    check_callbacks(common)
    check_components(common)
    _check_scheduler(space, common.train.epochs)
    losses, used = set(), set[str]()
    for values in chain(combinations(space.parameters, names), _some_combinations(space, corners)):
        config = space.config_over(layers, values)
        _check_scheduler(space, config.train.epochs)
        adds = config.model.name in MODELS and MODELS[config.model.name].adds_to_loss
        losses.add(config.loss.name + (f" with {config.model.name}'s own term" if adds else ""))
        used |= config.used_by_key().keys()
    for name in sorted(space.parameters.keys() - used):
        raise AdarError(f"parameters.{name}: no trial uses it, because none has its component; leave it out")
    if space.metric == "loss" and len(losses) > 1:
        raise AdarError(
            f"parameters.model.name: models have different losses ({', '.join(sorted(losses))}), so "
            "that these cannot be compared; set loss.name in base, or metric to a validation metric"
        )


def _check_layer(space: Space, layer: Layer) -> None:
    origin, sections = layer
    for name in (f"{section}.{key}" for section, keys in sections.items() for key in keys):
        if name in space.parameters:
            raise AdarError(f"{origin}: {name} is searched; leave it out here or in the space's parameters")
    space.check_train(origin, sections.get("train", {}))


def _check_scheduler(space: Space, epochs: int) -> None:
    """Refuse what is given and longer than a trial; the defaults are cut to its length."""
    key = {"asha": "grace", "median": "grace", "pbt": "interval"}.get(space.scheduler.name)
    if key in space.scheduler.model_fields_set and getattr(space.scheduler, key) > epochs:
        value = getattr(space.scheduler, key)
        raise AdarError(f"scheduler.{key}: {value} is more than train.epochs, {epochs}: lower it")


def _some_combinations(space: Space, points: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations, or as many drawn at random if there are too many to try."""
    first = list(islice(combinations(space.parameters, points), _TRIES + 1))
    if len(first) <= _TRIES:
        return first
    rng = random.Random(0)
    return [pick_values(space.parameters, lambda name: rng.choice(points[name])) for _ in range(_TRIES)]
