"""Values for the parameters of a space together: in order of their conditions, one by one or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

from adar_ray.tuning.parameter import Parameter

Parameters = Mapping[str, Parameter]


def in_order(parameters: Parameters) -> list[str]:
    """The parameters' names, each after those that its conditions name.

    Raises:
        graphlib.CycleError: the conditions form a circle.
    """
    graph = {name: parameter.when for name, parameter in parameters.items()}
    return list(TopologicalSorter(graph).static_order())


def required(parameters: Parameters, name: str) -> dict[str, list[Any]]:
    """The values of other parameters with which one is searched. Conditions must not form a circle."""
    needed: dict[str, list[Any]] = {}
    for other, allowed in parameters[name].when.items():
        for asked, values in ((other, allowed), *required(parameters, other).items()):
            needed[asked] = [value for value in needed.get(asked, values) if value in values]
    return needed


def pick_values(parameters: Parameters, pick: Callable[[str], Any]) -> dict[str, Any]:
    """What `pick` returns for every parameter whose conditions hold; it is called in order."""
    values: dict[str, Any] = {}
    for name in in_order(parameters):
        if _is_searched(parameters[name], values):
            values[name] = pick(name)
    return values


def combinations(parameters: Parameters, points: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the points, in a fixed order; the last parameter changes fastest."""
    order = in_order(parameters)

    def from_(at: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if at == len(order):
            yield values
        elif _is_searched(parameters[order[at]], values):
            for value in points[order[at]]:
                yield from from_(at + 1, {**values, order[at]: value})
        else:
            yield from from_(at + 1, values)

    return from_(0, {})


def _is_searched(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    return all(other in values and values[other] in allowed for other, allowed in parameter.when.items())
