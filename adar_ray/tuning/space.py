"""A search space: one declarative YAML file.

    base: {sampler: {name: adar}}                   # sections of a configuration, over the defaults
    parameters:                                     # keys of a configuration, each with a distribution
      adar.gamma: default                                               # the range that the setting declares
      adar.beta: {uniform: [0.5, 0.95]}
      optimizer.lr: {loguniform: [1e-4, 1e-2]}
      sampled_softmax.temperature: {quantized: [0.05, 0.5, 0.05]}       # low, high, step
      adar.negatives: {integer: [1, 8]}                                 # both ends included; log: true works
      sampler.name: {choice: [adar, ahns]}
      ahns.beta: {loguniform: [0.01, 1], when: {sampler.name: ahns}}    # searched in these trials only
    search: {algorithm: tpe, seed: 0, defaults: true}                 # the first trial has the defaults
    scheduler: {name: asha, grace: 4, reduction: 3}
    metric: ndcg@20
    mode: max
    budget: {trials: 64, time: 2h, patience: 20}

A `Space` that exists is valid by itself. `adar_ray.tuning.checks.check` finds what is wrong with it and the
settings beside it, before anyone pays for a trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from adar_ray.component import Settings
from adar_ray.config import (
    Config,
    build_config,
    check_key,
    is_structural,
    nearest,
    parse_metric,
    read_setting,
    search_range,
)
from adar_ray.documents import explain, read_yaml
from adar_ray.durations import Seconds
from adar_ray.errors import AdarError, one_line
from adar_ray.limits import LARGEST_SEED, MOST_TRIALS
from adar_ray.registry import LOSSES, MODELS, SAMPLERS
from adar_ray.tuning.combinations import combinations, in_order, pick_values, required
from adar_ray.tuning.parameter import Parameter

if TYPE_CHECKING:
    import optuna

Layer = tuple[str, Mapping[str, Any]]  # where sections of a configuration come from, and the sections

# Another value in these sections changes the loss, so that a search by the loss cannot compare trials.
_LOSS_SECTIONS = {"loss", "sampler", *LOSSES, *SAMPLERS}
_LOSS_SECTIONS |= {model.name for model in MODELS.values() if model.adds_to_loss}


class SearchSettings(Settings):
    """What proposes the trials' parameters."""

    algorithm: Literal["random", "grid", "tpe"] = "tpe"
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    defaults: bool = Field(False, description="Try the defaults first, where the ranges have them.")


class SchedulerSettings(Settings):
    """What stops poor trials early."""

    name: Literal["asha", "median", "pbt", "none"] = "asha"
    grace: int = Field(
        4, ge=1, le=1_000_000, description="Epochs that every trial gets; for asha and median."
    )
    reduction: int = Field(3, ge=2, le=1_000, description="One trial in this many goes on; for asha.")
    interval: int = Field(4, ge=1, le=1_000_000, description="Epochs between exploitations; for pbt.")


class BudgetSettings(Settings):
    """When the search ends: at whatever comes first."""

    trials: int = Field(64, ge=1, le=MOST_TRIALS)
    time: Seconds | None = Field(None, description="Seconds, or a duration such as 30m, 2h or 1h30m.")
    patience: int | None = Field(
        None, ge=1, le=MOST_TRIALS, description="Trials in a row without a better one."
    )


class Space(Settings):
    """What is searched, how, and for how long."""

    base: dict[str, dict[str, Any] | None] = Field({}, description="Sections of a configuration.")
    parameters: dict[str, Parameter] = Field({}, description="By section.key of a configuration.")
    search: SearchSettings = SearchSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    metric: str = "ndcg@20"
    mode: Literal["max", "min"] = "max"
    budget: BudgetSettings = BudgetSettings()

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """Read a space from a YAML file.

        Raises:
            AdarError: names the file, the key, and what to do.
        """
        return cls.from_mapping(read_yaml(Path(path)), str(path))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], origin: str = "space") -> Space:
        """Build a space from a mapping such as `model_dump` returns; messages begin with `origin`."""
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            raise AdarError(f"{origin}: {_explain(error)}") from error
        except AdarError as error:
            raise AdarError(f"{origin}: {error}") from error

    @field_validator("parameters", mode="before")
    @classmethod
    def _with_declared_ranges(cls, parameters: Any) -> Any:
        """Put the range that a setting declares in place of `default` or `{default: true, when: ...}`."""
        if not isinstance(parameters, Mapping):
            return parameters
        for name in parameters:
            if "." not in str(name):
                raise AdarError(f"parameters.{name}: give it as section.key, such as adar.beta")
        return {name: _with_declared_range(name, parameter) for name, parameter in parameters.items()}

    # What is wrong with a space by itself. Pydantic lets an AdarError through, since it is no ValueError.

    @model_validator(mode="after")
    def _keys_exist(self) -> Space:
        for section, keys in self.base.items():
            for key in keys or [None]:
                check_key(section, key, "base")
        if not self.parameters:
            raise AdarError("parameters: name at least one, such as adar.beta: {uniform: [0.5, 0.95]}")
        for name, parameter in self.parameters.items():
            section, _, key = name.partition(".")
            check_key(section, key, "parameters")
            for value in parameter.probes():
                _check_value(section, key, value)
        return self

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> Space:
        for name, parameter in self.parameters.items():
            for other, values in parameter.when.items():
                where = f"parameters.{name}.when.{other}"
                if other not in self.parameters:
                    raise AdarError(
                        f"{where}: is not a parameter of this space{nearest(other, self.parameters)}"
                    )
                on = self.parameters[other]
                if not (on.choice or on.integer):
                    raise AdarError(f"{where}: a condition needs a choice or an integer; this is {on.kind}")
                if never := [value for value in values if value not in on.points()]:
                    raise AdarError(
                        f"{where}: is never {never[0]!r}; it has {on.kind}: {getattr(on, on.kind)}"
                    )
        try:
            in_order(self.parameters)
        except CycleError as error:
            raise AdarError(f"parameters: conditions form a circle: {' -> '.join(error.args[1])}") from error
        for name in self.parameters:
            for other, allowed in required(self.parameters, name).items():
                if not allowed:
                    raise AdarError(
                        f"parameters.{name}.when: can never hold, because no value of {other} meets all of "
                        "it; correct it, or leave the parameter out"
                    )
        return self

    @model_validator(mode="after")
    def _algorithm_fits(self) -> Space:
        if self.search.algorithm == "grid" and self.search.defaults:
            raise AdarError("search.defaults: a grid has points of its own; use another search.algorithm")
        for name, parameter in self.parameters.items():
            if self.search.algorithm == "grid" and not parameter.points():
                raise AdarError(
                    f"parameters.{name}: a grid needs values, and {parameter.kind} has none; use "
                    "quantized: [low, high, step], a choice, or another search.algorithm"
                )
            if self.scheduler.name == "pbt" and (parameter.when or is_structural(name)):
                why = "has a condition" if parameter.when else "weights do not fit another value"
                raise AdarError(
                    f"parameters.{name}: {why}, and scheduler pbt moves weights from trial to trial; "
                    "use another scheduler, or fix it in base"
                )
            if self.scheduler.name != "none" and name == "train.epochs":
                raise AdarError(
                    f"parameters.{name}: the scheduler decides how many epochs a trial gets; fix it in "
                    "base, or set scheduler.name to none"
                )
        return self

    @model_validator(mode="after")
    def _trials_can_be_compared(self) -> Space:
        for name, parameter in self.parameters.items():
            if name == "train.metric":
                raise AdarError(f"parameters.{name}: trials are compared by it; set the space's metric")
            if name in ("train.threads", "train.gpus", "train.device"):
                raise AdarError(f"parameters.{name}: all trials reserve the same; fix it in base")
            if name == "train.patience":
                self.check_train("parameters", {"patience": parameter})
            if self.metric == "loss" and name.partition(".")[0] in _LOSS_SECTIONS:
                raise AdarError(
                    f"parameters.{name}: changes the loss, so that losses cannot be compared; "
                    "set metric to a validation metric"
                )
        if self.metric != "loss":
            try:
                parse_metric(self.metric)
            except ValueError as error:
                raise AdarError(f"{str(error).removeprefix('train.')}, or loss") from error
        best = "min" if self.metric == "loss" else "max"
        if self.mode != best:
            raise AdarError(f"mode: {self.metric} is best at its {best}; set mode: {best}")
        self.check_train("base", self.base.get("train") or {})
        return self

    def check_train(self, origin: str, train: Mapping[str, Any]) -> None:
        """Refuse keys of the `train` section that contradict the space's metric."""
        if self.metric == "loss":
            if "patience" in train:
                raise AdarError(
                    f"{origin}: train.patience counts epochs by train.metric, but the space's metric is "
                    "loss: leave it out"
                )
        elif train.get("metric", self.metric) != self.metric:
            raise AdarError(
                f"{origin}: train.metric is {train['metric']}, but the space's metric is {self.metric}: "
                "set only the space's"
            )

    # What a space is for.

    def config(self, values: Mapping[str, Any], settings: Iterable[str] = ()) -> Config:
        """The configuration of a trial: `values` over `settings` over base over the defaults.

        `train.metric` becomes the space's metric, so that the epoch that is kept is the one that is compared.
        If the metric is the loss, `train.metric` stays as it is, and no trial runs out of patience.

        Args:
            values: of parameters by `section.key`; what lies below a missing one applies.
            settings: `section.key=value`.
        """
        return self.config_over([read_setting(setting) for setting in settings], values)

    def config_over(self, layers: Iterable[Layer], values: Mapping[str, Any]) -> Config:
        """Like `config`, with settings that have been read."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in self.parameters:
                raise AdarError(f"{name}: is not a parameter of the space{nearest(name, self.parameters)}")
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        metric = {} if self.metric == "loss" else {"train": {"metric": self.metric}}
        layers = [("base", self.base), *layers, ("metric", metric), ("parameters", sections)]
        config = build_config(layers, "space" if values else "the space's base, without parameters")
        if self.metric != "loss":
            return config
        all_epochs = config.train.model_copy(update={"patience": config.train.epochs})
        return config.model_copy(update={"train": all_epochs})

    def defaults(self, n_items: int, settings: Iterable[str] = ()) -> dict[str, Any]:
        """What the configuration without parameters has of them, where their ranges have it, too.

        What follows from the number of items is the number that it comes to.
        """
        sections = self.config({}, settings).for_catalog(n_items).model_dump()
        values = {}
        for name, parameter in self.parameters.items():
            section, _, key = name.partition(".")
            if key in sections[section] and parameter.allows(sections[section][key]):
                values[name] = sections[section][key]
        return values

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask the study for every parameter whose conditions hold; returns values by `section.key`."""
        return pick_values(self.parameters, lambda name: self.parameters[name].suggest(trial, name))

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, always in the same order; the last parameter changes fastest."""
        points = {name: parameter.points() for name, parameter in self.parameters.items()}
        return list(combinations(self.parameters, points))


def _with_declared_range(name: str, parameter: Any) -> Any:
    if parameter == "default":
        parameter = {"default": True}
    if not isinstance(parameter, Mapping) or parameter.get("default") is not True:
        return parameter
    section, _, key = name.partition(".")
    check_key(section, key, "parameters")
    declared = search_range(name)
    if declared is None:
        raise AdarError(f"parameters.{name}: declares no default range; give one, such as choice: [...]")
    return declared | {key: value for key, value in parameter.items() if key != "default"}


def _check_value(section: str, key: str, value: Any) -> None:
    """Refuse a value that the key cannot have. What it must not be beside other keys, `check` finds out."""
    block = Config.model_fields[section].annotation
    if not (isinstance(block, type) and issubclass(block, Settings)):
        return  # the settings of custom components
    try:
        block.model_validate({key: value})
    except ValidationError as error:
        if error.errors()[0]["loc"]:
            raise AdarError(f"parameters.{section}.{explain(error)}") from error


_SECTIONS: dict[str, type[Settings]] = {
    "parameters": Parameter,
    "search": SearchSettings,
    "scheduler": SchedulerSettings,
    "budget": BudgetSettings,
}


def _explain(error: ValidationError) -> str:
    """Like `documents.explain`, but also for an unknown key, and for something else in place of keys."""
    first = error.errors()[0]
    unknown, no_keys = first["type"] == "extra_forbidden", first["type"] == "model_type"
    if not (unknown or no_keys):
        return explain(error)
    location = [str(part) for part in first["loc"]]
    path = location[:-1] if unknown else location
    keys = (_SECTIONS[path[0]] if path else Space).model_fields
    where = ".".join(location)
    if unknown:
        return f"there is no key {where}{nearest(location[-1], keys)}"
    return one_line(f"{where or 'a space'}: give some of {', '.join(keys)}, not {first['input']!r}")
