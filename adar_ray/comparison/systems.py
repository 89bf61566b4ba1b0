"""What is compared: models with samplers, which are trained once per seed, and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from adar_ray.baselines.names import BASELINES
from adar_ray.config import (
    Config,
    check_setting_list,
    nearest,
    read_setting,
    search_range,
    with_settings,
)
from adar_ray.errors import AdarError
from adar_ray.limits import check_list
from adar_ray.registry import LOSSES, SAMPLERS
from adar_ray.tuning.space import SearchSettings, Space

Values = Mapping[str, Any]
"""What a system or a baseline was tuned to, by `section.key` or the baseline's setting."""

SEARCH = SearchSettings(algorithm="tpe", seed=0, defaults=True)
"""How all systems and baselines are tuned."""

_OWN = {("model", "name"): "--models", ("sampler", "name"): "--samplers"}


def trained_systems(models: Sequence[str], samplers: Sequence[str]) -> dict[str, dict[str, dict[str, str]]]:
    """The sections that tell each system that is trained from the others, by the system's name.

    Raises:
        AdarError: there are none.
    """
    for option, names in (("--models", models), ("--samplers", samplers)):
        check_list(option, names)
        if not names:
            raise AdarError(f"{option}: names nothing; give one or more, separated by commas")
    return {
        f"{model}-{sampler}": {"model": {"name": model}, "sampler": {"name": sampler}}
        for model in models
        for sampler in samplers
    }


def check_settings(settings: Iterable[str]) -> None:
    """Refuses settings of what tells systems apart."""
    check_setting_list(settings)
    for setting in settings:
        for section, keys in read_setting(setting)[1].items():
            for key in keys:
                if option := _OWN.get((section, key)):
                    raise AdarError(f"--set {setting}: name what is compared with {option}")


def configs_of(
    sections: Mapping[str, Mapping[str, Any]], seeds: int, settings: Sequence[str], values: Values
) -> list[Config]:
    """The configurations of a system, one per seed.

    Args:
        sections: what the system is.
        settings: `section.key=value`.
        values: what it was tuned to.

    Raises:
        AdarError: a name or a setting cannot be.
    """
    merged = {section: dict(keys) for section, keys in sections.items()}
    for name, value in values.items():
        section, _, key = name.partition(".")
        merged.setdefault(section, {})[key] = value
    first = with_settings(merged, settings).train.seed
    return [
        with_settings(merged, [*settings, f"train.seed={number}"]) for number in range(first, first + seeds)
    ]


def space_of(
    sections: Mapping[str, Mapping[str, Any]], config: Config, settings: Sequence[str], trials: int
) -> Space:
    """What a system is tuned over: what all systems share, and the sampler's own settings.

    Every range is the one that the setting declares. What `settings` have is not tuned.

    Raises:
        AdarError: `settings` have all of it.
    """
    layers = [read_setting(setting)[1] for setting in settings]
    given = {f"{section}.{key}" for layer in layers for section, keys in layer.items() for key in keys}
    searched = [name for name in _keys(config) if name not in given]
    if not searched:
        raise AdarError(
            f"--trials {trials}: --set has all that {config.model.name}-{config.sampler.name} could be "
            "tuned over; leave some of it out"
        )
    content = {
        "base": sections,
        "parameters": dict.fromkeys(searched, "default"),
        "search": SEARCH.model_dump(),
        # What learns fast need not end best, so that no trial is stopped early.
        "scheduler": {"name": "none"},
        "metric": config.train.metric,
        "budget": {"trials": trials},
    }
    return Space.from_mapping(content, f"--trials {trials}")


def _keys(config: Config) -> Iterator[str]:
    """The learning rate, the temperature of a softmax or else L2, and the sampler's own that have ranges."""
    loss, sampler = LOSSES.get(config.loss.name), SAMPLERS.get(config.sampler.name)
    yield "optimizer.lr"
    yield f"{loss.name}.temperature" if loss is not None and loss.temperature else "loss.l2"
    if sampler is None:  # a custom one, which declares no ranges
        return
    no_effect = set()
    if sampler.shares and loss is not None and loss.shared_negatives is not None:
        no_effect.add("negatives")
    if sampler.joins is not None and config.sampler_names() == [sampler.name]:
        no_effect.add("weight")  # beside negatives that are not there
    for key in sampler.settings.model_fields:
        name = f"{sampler.name}.{key}"
        if key not in no_effect and search_range(name) is not None:
            yield name


def described(values: Values) -> str:
    """The values in a line."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def check_baselines(baselines: Iterable[str]) -> None:
    for name in baselines:
        if name not in BASELINES:
            raise AdarError(f"--baselines {name}: there is no such baseline{nearest(name, BASELINES)}")
