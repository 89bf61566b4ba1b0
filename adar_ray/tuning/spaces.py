"""What is searched: one declarative YAML file a space.

    base: {sampler: {name: adar}}                   # sections of a configuration, over the defaults
    parameters:                                     # keys of a configuration, each with a distribution
      adar.beta: {uniform: [0.5, 0.95]}
      optimizer.lr: {loguniform: [1e-4, 1e-2]}
      loss.temperature: {quantized: [0.05, 0.5, 0.05]}            # low, high, step
      adar.K: {integer: [1, 8]}                                   # both ends included; log: true if you like
      sampler.name: {choice: [adar, ahns]}
      ahns.beta: {loguniform: [0.01, 1], when: {sampler.name: ahns}}    # searched in these trials alone
    search: {algorithm: tpe, seed: 0}
    scheduler: {name: asha, grace: 4, reduction: 3}
    metric: ndcg@20
    mode: max
    budget: {trials: 64, time: 2h, patience: 20}
    resources: {cpu: 1, gpu: 0}

A `Space` that exists has no fault of its own. `Space.check` finds what is wrong with it and with the settings
beside it, before a trial is paid for.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from graphlib import CycleError, TopologicalSorter
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from adar_ray.component import Settings
from adar_ray.config import (
    Config,
    build_config,
    check_key,
    explain,
    nearest,
    parse_metric,
    read_setting,
    read_yaml,
)
from adar_ray.errors import AdarError, one_line

if TYPE_CHECKING:
    import optuna

_TRIES = 1_000  # whole configurations that `Space.check` makes, in some tenths of a second
_LARGEST_GRID = 10_000
_FORMS = {
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quantized": "[low, high, step]",
    "integer": "[low, high]",
    "choice": "[a value, another]",
}
# With another value of these, a trial's weights and what the optimizer and the sampler remember fit no more.
_SHAPES = (
    *("model.name", "model.dim", "model.layers", "model.heads", "model.cosine"),
    *("sampler.name", "srns.memory", "optimizer.name"),
)

# With another value of these, the loss is another one, which no search by the loss may compare.
_OF_THE_LOSS = ("loss", "sampler", "adar", "ahns", "dens", "srns")


def parse_duration(text: str | float) -> float:
    """Seconds: of a number of them, or of days, hours, minutes and seconds such as `1h30m`.

    Raises:
        AdarError: it is no duration, or none that is above 0.
    """
    number = r"(\d+(?:\.\d+)?)"
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = "".join(f"(?:{number}{unit})?" for unit in units)
    if re.fullmatch(number, str(text)):
        seconds = float(text)
    elif match := re.fullmatch(parts, str(text)):
        seconds = sum(
            float(part or 0) * unit for part, unit in zip(match.groups(), units.values(), strict=True)
        )
    else:
        seconds = 0.0
    if seconds <= 0:
        raise AdarError(f"{text!r} is no duration: give seconds, or such as 30m, 2h or 1h30m")
    return seconds


def _seconds(time: Any) -> float | None:
    try:
        return None if time is None else parse_duration(time)
    except AdarError as error:
        raise ValueError(str(error)) from error


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("a value is a number, a word, true or false")


Scalar = Annotated[Any, AfterValidator(_scalar)]


class Parameter(Settings):
    """A distribution, and the conditions under which the parameter is searched."""

    uniform: list[FiniteFloat] | None = None
    loguniform: list[FiniteFloat] | None = None
    quantized: list[FiniteFloat] | None = None
    integer: list[int] | None = None
    choice: list[Scalar] | None = None
    log: bool = Field(False, description="Whole numbers as likely by order of magnitude; with integer.")
    when: dict[str, list[Scalar]] = Field({}, description="Another parameter, and its values.")

    @field_validator("when", mode="before")
    @classmethod
    def _as_lists(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {
            name: value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            for name, value in when.items()
        }

    @model_validator(mode="after")
    def _is_sound(self) -> Parameter:
        given = [kind for kind in _FORMS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(f'{kind}: {form}' for kind, form in _FORMS.items())}")
        if self.log and not self.integer:
            raise ValueError("log goes with integer; the logarithmic range of any number is loguniform")
        if self.choice is not None:
            if not self.choice or any(value in self.choice[:at] for at, value in enumerate(self.choice)):
                raise ValueError("a choice has at least one value, and none twice")
            return self
        numbers = getattr(self, self.kind)
        if len(numbers) != _FORMS[self.kind].count(",") + 1:
            raise ValueError(f"{self.kind} takes {_FORMS[self.kind]}")
        if self.low >= self.high:
            raise ValueError("the range is empty: low is below high, and what is fixed belongs in base")
        if self.is_log and self.low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        if self.quantized:
            low, high, step = (Decimal(str(number)) for number in self.quantized)
            if step <= 0 or (high - low) % step:
                raise ValueError(f"no whole number of steps of {step} leads from {low} to {high}")
        return self

    @model_serializer(mode="wrap")
    def _what_is_given(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value}

    @property
    def kind(self) -> str:
        return next(kind for kind in _FORMS if getattr(self, kind) is not None)

    @property
    def is_log(self) -> bool:
        return self.log or self.loguniform is not None

    @property
    def low(self) -> float:
        return getattr(self, self.kind)[0]

    @property
    def high(self) -> float:
        return getattr(self, self.kind)[1]

    def points(self) -> Sequence[Any]:
        """All values, in order; none of a continuous range."""
        if self.choice:
            return self.choice
        if self.integer:
            return range(self.low, self.high + 1)
        if self.quantized:
            low, high, step = (Decimal(str(number)) for number in self.quantized)
            return [float(low + k * step) for k in range(int((high - low) / step) + 1)]
        return []

    def corners(self) -> list[Any]:
        """All choices, or both ends."""
        return self.choice or [self.low, self.high]

    def probes(self) -> list[Any]:
        """Corners, and a number between: a key for whole numbers takes the ends of any range."""
        if self.choice or self.integer:
            return self.corners()
        step = self.quantized[2] if self.quantized else 0.381966 * (self.high - self.low)
        return [*self.corners(), self.low + step]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        if self.choice:
            return trial.suggest_categorical(name, self.choice)
        if self.integer:
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        if self.quantized:  # Optuna's own is 0.15000000000000002 where a step of 0.05 leads to 0.15
            value = trial.suggest_float(name, self.low, self.high, step=self.quantized[2])
            return min(self.points(), key=lambda point: abs(point - value))
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)


class Search(Settings):
    """What proposes trials."""

    algorithm: Literal["random", "grid", "tpe", "bohb"] = "tpe"
    seed: int = Field(0, ge=0, lt=2**31)


class Scheduler(Settings):
    """What ends poor trials early."""

    name: Literal["asha", "hyperband", "median", "pbt", "none"] = "asha"
    grace: int = Field(4, ge=1, description="Epochs that every trial gets; for asha and median.")
    reduction: int = Field(3, ge=2, description="One trial of so many goes on; for asha and hyperband.")
    interval: int = Field(4, ge=1, description="Epochs between exploitations; for pbt.")


class Budget(Settings):
    """When the search ends: at whatever comes first."""

    trials: int = Field(64, ge=1)
    time: float | None = Field(None, description="Seconds, or such as 30m, 2h or 1h30m.")
    patience: int | None = Field(None, ge=1, description="Trials without a better one.")

    _time_is_a_duration = field_validator("time", mode="before")(_seconds)


class Resources(Settings):
    """Of a worker."""

    cpu: FiniteFloat = Field(1, gt=0)
    gpu: FiniteFloat = Field(0, ge=0)


class Space(Settings):
    """What is searched, how, and for how long."""

    base: dict[str, dict[str, Any] | None] = Field({}, description="Sections of a configuration.")
    parameters: dict[str, Parameter] = Field({}, description="By section.key of a configuration.")
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    metric: str = "ndcg@20"
    mode: Literal["max", "min"] = "max"
    budget: Budget = Budget()
    resources: Resources = Resources()

    @classmethod
    def load(cls, path: str | Path) -> Space:
        """The space of a YAML file.

        Raises:
            AdarError: names the file, the key, and what to do.
        """
        return cls.from_mapping(read_yaml(Path(path)), str(path))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], origin: str) -> Space:
        """The space that `mapping` describes, such as one of `model_dump`; `origin` is for messages."""
        try:
            return cls.model_validate(mapping)
        except ValidationError as error:
            raise AdarError(f"{origin}: {_explain(error)}") from error
        except AdarError as error:
            raise AdarError(f"{origin}: {error}") from error

    # The faults of a space by itself. What is no ValueError passes through Pydantic as it is.

    @model_validator(mode="after")
    def _keys_are_there(self) -> Space:
        for section, keys in self.base.items():
            for key in keys or {None: None}:
                check_key(section, key, "base")
        if not self.parameters:
            raise AdarError("parameters: name at least one, such as adar.beta: {uniform: [0.5, 0.95]}")
        for name, parameter in self.parameters.items():
            section, dot, key = name.partition(".")
            if not dot:
                raise AdarError(f"parameters.{name}: give it as section.key, such as adar.beta")
            check_key(section, key, "parameters")
            for value in parameter.probes():
                try:
                    Config.model_fields[section].annotation.model_validate({key: value})
                except ValidationError as error:
                    raise AdarError(f"parameters.{section}.{explain(error)}") from error
        return self

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> Space:
        for name, parameter in self.parameters.items():
            for other, values in parameter.when.items():
                where = f"parameters.{name}.when.{other}"
                if other not in self.parameters:
                    raise AdarError(
                        f"{where}: is no parameter of this space{nearest(other, self.parameters)}"
                    )
                on = self.parameters[other]
                if not (on.choice or on.integer):
                    raise AdarError(f"{where}: depend on a choice or an integer; this is {on.kind}")
                if never := [value for value in values if value not in on.points()]:
                    raise AdarError(
                        f"{where}: is never {never[0]!r}; it has {on.kind}: {getattr(on, on.kind)}"
                    )
        try:
            self._order()
        except CycleError as error:
            raise AdarError(f"parameters: conditions go in a circle: {' -> '.join(error.args[1])}") from error
        return self

    @model_validator(mode="after")
    def _search_fits(self) -> Space:
        if self.search.algorithm == "bohb" and self.scheduler.name != "hyperband":
            raise AdarError("search.algorithm: bohb goes with scheduler hyperband alone; set its name")
        for name, parameter in self.parameters.items():
            where = f"parameters.{name}"
            if self.search.algorithm == "grid" and not parameter.points():
                raise AdarError(
                    f"{where}: a grid has no values of {parameter.kind}; use quantized: [low, high, step], "
                    "a choice, or another search.algorithm"
                )
            if self.scheduler.name == "pbt" and (name in _SHAPES or parameter.when):
                why = "has a condition" if parameter.when else "decides what weights there are"
                raise AdarError(
                    f"{where}: {why}, and scheduler pbt carries weights from trial to trial; "
                    "use another scheduler, or fix it in base"
                )
            if self.scheduler.name != "none" and name == "train.epochs":
                raise AdarError(
                    f"{where}: is what the scheduler shares out; fix it in base, or use name: none"
                )
            if name == "train.metric":
                raise AdarError(f"{where}: is what trials are compared by; set the space's metric")
            if name == "train.patience":
                self._check_train("parameters", {"patience": parameter})
            if self.metric == "loss" and name.partition(".")[0] in _OF_THE_LOSS:
                raise AdarError(
                    f"{where}: makes another loss, and the least of several is not the best; "
                    "set metric to one of validation"
                )
        if self.metric != "loss":
            try:
                parse_metric(self.metric)
            except ValueError as error:
                raise AdarError(f"{str(error).removeprefix('train.')}, or loss") from error
        best = "min" if self.metric == "loss" else "max"
        if self.mode != best:
            raise AdarError(f"mode: {self.metric} is best at its {best}; set mode: {best}")
        self._check_train("base", self.base.get("train") or {})
        return self

    def _check_train(self, origin: str, train: Mapping[str, Any]) -> None:
        if self.metric == "loss":
            if "patience" in train:
                raise AdarError(
                    f"{origin}: train.patience counts epochs by train.metric, and the space's metric is "
                    "loss: leave it out"
                )
        elif train.get("metric", self.metric) != self.metric:
            raise AdarError(
                f"{origin}: train.metric is {train['metric']}, the space's metric {self.metric}: "
                "set that alone"
            )

    # What comes of it

    def config(self, values: Mapping[str, Any], settings: Iterable[str] = ()) -> Config:
        """The configuration of a trial: `values` over `settings` over base over the defaults.

        `train.metric` is the space's metric, so that the epoch that is kept is the one that is compared. For
        the loss, which has no part in that, it stays what it is, and no trial ends for want of patience.

        Args:
            values: of parameters by `section.key`; where one is missing, what lies below it holds.
            settings: `section.key=value`.
        """
        return self._config(values, [read_setting(setting) for setting in settings])

    def _config(self, values: Mapping[str, Any], settings: list[tuple[str, dict[str, Any]]]) -> Config:
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in self.parameters:
                raise AdarError(f"{name}: is no parameter of the space{nearest(name, self.parameters)}")
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
        metric = {} if self.metric == "loss" else {"train": {"metric": self.metric}}
        layers = [("base", self.base), *settings, ("metric", metric), ("parameters", sections)]
        config = build_config(layers, "space" if values else "the space's base, without parameters")
        if self.metric != "loss":
            return config
        all_epochs = config.train.model_copy(update={"patience": config.train.epochs})
        return config.model_copy(update={"train": all_epochs})

    def check(self, settings: Iterable[str] = ()) -> None:
        """Refuses what is wrong with base, parameters and `settings` together.

        Makes the configuration without any parameter, which says how long trials train and on how many
        threads; that of every combination of models, losses, samplers and optimizers; then that of every
        combination of choices and ends of ranges, or of a grid's values, or of 1,000 of them drawn at random.
        """
        layers = [read_setting(setting) for setting in settings]
        for origin, sections in layers:
            for name in (f"{section}.{key}" for section, keys in sections.items() for key in keys):
                if name in self.parameters:
                    raise AdarError(
                        f"{origin}: {name} is searched; leave it out here or in the space's parameters"
                    )
            self._check_train(origin, sections.get("train", {}))
        asked = {other for parameter in self.parameters.values() for other in parameter.when}
        corners = {
            name: parameter.points() if name in asked else parameter.corners()
            for name, parameter in self.parameters.items()
        }
        names = {name: ends if name.endswith(".name") else ends[:1] for name, ends in corners.items()}
        if self.search.algorithm == "grid":
            corners = {name: parameter.points() for name, parameter in self.parameters.items()}
            if next(islice(self._combinations(corners), _LARGEST_GRID, None), None):
                raise AdarError(f"parameters: a grid of more than {_LARGEST_GRID} trials; give fewer values")
        for values in chain([{}], self._combinations(names), self._some_combinations(corners)):
            self._check_schedule(self._config(values, layers).train.epochs)

    def _check_schedule(self, epochs: int) -> None:
        key = {"asha": "grace", "median": "grace", "pbt": "interval"}.get(self.scheduler.name)
        if key and getattr(self.scheduler, key) > epochs:
            value = getattr(self.scheduler, key)
            raise AdarError(f"scheduler.{key}: {value} is more than train.epochs, {epochs}: lower it")

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draws every parameter whose conditions hold; values by `section.key`."""
        return self._values(lambda name: self.parameters[name].suggest(trial, name))

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, always in the same order; the last parameter changes fastest."""
        points = {name: parameter.points() for name, parameter in self.parameters.items()}
        return list(self._combinations(points))

    def mutations(self) -> dict[str, Any]:
        """For Ray Tune's `PopulationBasedTraining`, which steps through a list and multiplies in a range."""
        from ray import tune

        def mutation(parameter: Parameter) -> Any:
            low, high = parameter.corners()[0], parameter.corners()[-1]
            if parameter.log:
                return tune.lograndint(low, high + 1)
            if points := parameter.points():
                return list(points)
            return (tune.loguniform if parameter.loguniform else tune.uniform)(low, high)

        return {name: mutation(parameter) for name, parameter in self.parameters.items()}

    def within(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` moved into their ranges; population-based training multiplies its way out of them."""

        def moved(parameter: Parameter, value: Any) -> Any:
            return value if parameter.choice else min(max(value, parameter.low), parameter.high)

        return {name: moved(self.parameters[name], value) for name, value in values.items()}

    def _order(self) -> list[str]:
        """The parameters, each after those that it depends on."""
        graph = {name: parameter.when for name, parameter in self.parameters.items()}
        return list(TopologicalSorter(graph).static_order())

    def _is_searched(self, name: str, values: Mapping[str, Any]) -> bool:
        when = self.parameters[name].when
        return all(other in values and values[other] in allowed for other, allowed in when.items())

    def _values(self, pick: Callable[[str], Any]) -> dict[str, Any]:
        """What `pick` gives for every parameter whose conditions hold, those that others depend on first."""
        values: dict[str, Any] = {}
        for name in self._order():
            if self._is_searched(name, values):
                values[name] = pick(name)
        return values

    def _combinations(self, points: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
        order = self._order()

        def from_(at: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if at == len(order):
                yield values
            elif self._is_searched(order[at], values):
                for value in points[order[at]]:
                    yield from from_(at + 1, {**values, order[at]: value})
            else:
                yield from from_(at + 1, values)

        return from_(0, {})

    def _some_combinations(self, points: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        combinations = list(islice(self._combinations(points), _TRIES + 1))
        if len(combinations) <= _TRIES:
            return combinations
        rng = random.Random(0)
        return [self._values(lambda name: rng.choice(points[name])) for _ in range(_TRIES)]


_SECTIONS = {
    "parameters": Parameter,
    "search": Search,
    "scheduler": Scheduler,
    "budget": Budget,
    "resources": Resources,
}


def _explain(error: ValidationError) -> str:
    """`config.explain`, but for an unknown key, and for something else where keys belong."""
    first = error.errors()[0]
    unknown, no_keys = first["type"] == "extra_forbidden", first["type"] == "model_type"
    if not (unknown or no_keys):
        return explain(error)
    path = first["loc"][:-1] if unknown else first["loc"]
    keys = (_SECTIONS[path[0]] if path else Space).model_fields
    where = ".".join(first["loc"])
    if unknown:
        return f"there is no key {where}{nearest(first['loc'][-1], keys)}"
    return one_line(f"{where or 'a space'}: give some of {', '.join(keys)}, not {first['input']!r}")
