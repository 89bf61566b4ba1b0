"""The names of all models, samplers and losses. To add one, write its file and name its declaration here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from adar_ray import losses
from adar_ray.adar import sampler as adar
from adar_ray.component import LossComponent, ModelComponent, SamplerComponent, Settings
from adar_ray.models import bert4rec, fmlprec, gru4rec, lightgcn, mf, neumf, ngcf, sasrec, simgcl, twotower
from adar_ray.samplers import ahns, all_items, dens, dns, in_batch, mixgcf, popularity, srns, uniform

C = TypeVar("C", ModelComponent[Any], SamplerComponent[Any], LossComponent[Any])


def _by_name(components: Iterable[C]) -> dict[str, C]:
    return {component.name: component for component in components}


MODELS: dict[str, ModelComponent[Any]] = _by_name(
    module.COMPONENT
    for module in (mf, twotower, neumf, ngcf, lightgcn, simgcl, gru4rec, sasrec, bert4rec, fmlprec)
)

SAMPLERS: dict[str, SamplerComponent[Any]] = _by_name(
    module.COMPONENT
    for module in (adar, uniform, popularity, in_batch, dns, mixgcf, dens, ahns, srns, all_items)
)

LOSSES: dict[str, LossComponent[Any]] = _by_name(
    (losses.BPR, losses.BCE, losses.SAMPLED_SOFTMAX, losses.CROSS_ENTROPY)
)


def settings_blocks() -> dict[str, type[Settings]]:
    """The settings class of every component that has settings of its own, by the component's name."""
    tables: tuple[Mapping[str, Any], ...] = (MODELS, LOSSES, SAMPLERS)
    every = {name: component.settings for table in tables for name, component in table.items()}
    return {name: settings for name, settings in every.items() if settings.model_fields}
