"""A parameter of a search space: a distribution, and the conditions under which it is searched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, field_validator, model_serializer, model_validator

from adar_ray.component import Settings

if TYPE_CHECKING:
    import optuna

_FORMS = {
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "quantized": "[low, high, step]",
    "integer": "[low, high]",
    "choice": "[a value, another]",
}
_MOST_STEPS = 10_000  # their values are listed


def _scalar(value: Any) -> Any:
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("a value is a number, a word, true or false")


Scalar = Annotated[Any, AfterValidator(_scalar)]


def _kind(value: bool | int | float | str) -> type:
    """A column of the table of trials holds values of one of these."""
    return float if type(value) is int else type(value)


class Parameter(Settings):
    """A distribution, and the conditions under which the parameter is searched."""

    uniform: list[FiniteFloat] | None = None
    loguniform: list[FiniteFloat] | None = None
    quantized: list[FiniteFloat] | None = None
    integer: list[int] | None = None
    choice: list[Scalar] | None = None
    log: bool = Field(False, description="With integer: each order of magnitude is equally likely.")
    when: dict[str, list[Scalar]] = Field({}, description="Other parameters, and the values they must have.")

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
            raise ValueError("log goes with integer; for a logarithmic range of any number use loguniform")
        if self.choice is not None:
            if not self.choice or any(value in self.choice[:at] for at, value in enumerate(self.choice)):
                raise ValueError("a choice needs at least one value, and none twice")
            if len({_kind(value) for value in self.choice}) > 1:
                raise ValueError("a choice needs values of one kind: text, numbers, or true and false")
            return self
        numbers = getattr(self, self.kind)
        if len(numbers) != _FORMS[self.kind].count(",") + 1:
            raise ValueError(f"{self.kind} takes {_FORMS[self.kind]}")
        if self.low >= self.high:
            raise ValueError("the range is empty: low must be below high; put a fixed value in base")
        if self.is_log and self.low <= 0:
            raise ValueError("a logarithmic range must begin above 0")
        if self.quantized:
            low, high, step = (Decimal(str(number)) for number in self.quantized)
            if step > 0 and (high - low) / step > _MOST_STEPS:
                raise ValueError(f"more than {_MOST_STEPS} steps of {step} lead from {low} to {high}")
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
        """All values, in order; empty for a continuous range."""
        if self.choice:
            return self.choice
        if self.integer:
            low, high = self.integer
            return range(low, high + 1)
        if self.quantized:
            start, end, step = (Decimal(str(number)) for number in self.quantized)
            return [float(start + k * step) for k in range(int((end - start) / step) + 1)]
        return []

    def allows(self, value: Any) -> bool:
        """Whether a trial can have this value."""
        if self.choice or self.quantized:
            return value in self.points()
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if self.integer and not is_whole:
            return False
        return isinstance(value, int | float) and self.low <= value <= self.high

    def corners(self) -> list[Any]:
        """All choices, or both ends."""
        return self.choice or [self.low, self.high]

    def probes(self) -> list[Any]:
        """The corners and a number between them: a key for whole numbers accepts the ends of any range."""
        if self.choice or self.integer:
            return self.corners()
        step = self.quantized[2] if self.quantized else 0.381966 * (self.high - self.low)
        return [*self.corners(), self.low + step]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """The value that the study proposes for this trial."""
        if self.choice:
            return trial.suggest_categorical(name, self.choice)
        if self.integer:
            low, high = self.integer
            return trial.suggest_int(name, low, high, log=self.log)
        if self.quantized:  # Optuna gives 0.15000000000000002 where steps of 0.05 lead to 0.15
            value = trial.suggest_float(name, self.low, self.high, step=self.quantized[2])
            return min(self.points(), key=lambda point: abs(point - value))
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)
