"""What is compared: models with samplers, which are trained once per seed, and baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adar_ray.baselines.names import BASELINES
from adar_ray.config import Config, load_config, nearest, read_setting
from adar_ray.errors import AdarError

_OWN = {("model", "name"): "--models", ("sampler", "name"): "--samplers"}


def trained_systems(
    models: Sequence[str], samplers: Sequence[str], seeds: int, settings: Sequence[str]
) -> dict[str, list[Config]]:
    """The configurations of each system that is trained, one per seed, by the system's name.

    Raises:
        AdarError: there are none, or a name or a setting cannot be.
    """
    for setting in settings:
        for section, keys in read_setting(setting)[1].items():
            for key in keys:
                if option := _OWN.get((section, key)):
                    raise AdarError(f"--set {setting}: name what is compared with {option}")
    for option, names in (("--models", models), ("--samplers", samplers)):
        if not names:
            raise AdarError(f"{option}: names nothing; give one or more, separated by commas")
    return {
        f"{model}-{sampler}": _of_seeds(
            {"model": {"name": model}, "sampler": {"name": sampler}}, seeds, settings
        )
        for model in models
        for sampler in samplers
    }


def _of_seeds(names: dict[str, dict[str, str]], seeds: int, settings: Sequence[str]) -> list[Config]:
    first = load_config(settings=settings, values=names)
    numbers = range(first.train.seed, first.train.seed + seeds)
    return [load_config(settings=[*settings, f"train.seed={number}"], values=names) for number in numbers]


def check_baselines(baselines: Iterable[str]) -> None:
    for name in baselines:
        if name not in BASELINES:
            raise AdarError(f"--baselines {name}: there is no such baseline{nearest(name, BASELINES)}")
