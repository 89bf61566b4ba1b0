"""Every number that a user can give has a smallest and a largest value."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import click
import pytest
from pydantic import BaseModel, ValidationError

from adar_ray import compare, evaluate, prepare, recommend
from adar_ray.cli.main import cli
from adar_ray.cluster.job import Job
from adar_ray.config import Config
from adar_ray.data.synthetic import synthesize
from adar_ray.errors import AdarError
from adar_ray.limits import check_number
from adar_ray.tuning.folder import Search
from adar_ray.tuning.search import tune
from adar_ray.tuning.space import Space

# Nothing honest is so large.
ENORMOUS = (10**33, -(10**33), 1e33, -1e33)


def numbers(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The fields that hold a number, of a model and of the models in it, and whose they are."""
    for name, field in model.model_fields.items():
        kinds = _kinds(field.annotation)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from numbers(kind, f"{path}{name}.")
        if any(
            isinstance(kind, type) and issubclass(kind, int | float) and kind is not bool for kind in kinds
        ):
            yield f"{path}{name}", model


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation consists of."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [getattr(annotation, "__origin__", annotation)]


def takes(model: type[BaseModel], name: str, value: float) -> bool:
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return name not in {fault["loc"][0] for fault in error.errors() if fault["loc"]}
    return True


FIELDS = [*numbers(Config), *numbers(Space, "space."), *numbers(Search, "search."), *numbers(Job, "job.")]


def options(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Option]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from options(inner, f"{path} {name}")
    for parameter in command.params:
        yield f"{path} {parameter.opts[0]}", parameter


def test_the_walk_finds_all_kinds_of_fields() -> None:
    found = {name for name, _ in FIELDS}
    assert {"model.embedding_dim", "optimizer.lr", "adar.pool", "srns.memory"} <= found
    assert {"space.budget.trials", "space.budget.time", "space.scheduler.grace", "search.seconds"} <= found
    assert {"job.workers.cpus", "job.entry_point.memory", "job.time_limit"} <= found
    assert len(found) > 80


@pytest.mark.parametrize(("name", "model"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_number_of_a_file_is_bounded(name: str, model: type[BaseModel]) -> None:
    key = name.rpartition(".")[2]
    assert not any(takes(model, key, value) for value in (*ENORMOUS, math.inf, -math.inf))


def test_every_number_on_the_command_line_is_bounded() -> None:
    ranges = 0
    for name, option in options(cli):
        assert not isinstance(option.type, click.types.IntParamType | click.types.FloatParamType) or (
            isinstance(option.type, click.IntRange | click.FloatRange)
            and None not in (option.type.min, option.type.max)
        ), name
        ranges += isinstance(option.type, click.IntRange | click.FloatRange)
    assert ranges > 15


@pytest.mark.parametrize(
    ("call", "flag"),
    [
        (lambda out: synthesize(10**13, 10, 10**13, 0, out), "--users"),
        (lambda out: synthesize(10, 10**13, 100, 0, out), "--items"),
        (lambda out: synthesize(10, 100, 10**13, 0, out), "--interactions"),
        (lambda out: synthesize(10, 100, 100, 10**30, out), "--seed"),
        (lambda out: prepare("there.csv", out, seed=10**30), "--seed"),
        (lambda out: prepare("there.csv", out, seed=-1), "--seed"),
        (lambda out: prepare("there.csv", out, core=10**30), "--core"),
        (lambda out: prepare("there.csv", out, max_bad_rows=10**30), "--max-bad-rows"),
        (lambda out: prepare("there.csv", out, min_rating=math.nan), "--min-rating"),
        (lambda out: prepare("there.csv", out, sequence_length=10**30), "--sequence-length"),
        (lambda out: prepare("there.csv", out, sequence_stride=10**30), "--sequence-stride"),
        (lambda out: evaluate("run", ks=[10, 10**15]), "--k"),
        (lambda out: evaluate("run", ks=[0]), "--k"),
        (lambda out: recommend("run", out, 10**15), "--k"),
        (lambda out: compare("data", out, seeds=10**13), "--seeds"),
        (lambda out: tune("data", "space.yaml", out, trials=10**13), "--trials"),
        (lambda out: tune("data", "space.yaml", out, concurrent=0), "--concurrent"),
        (lambda out: tune("data", "space.yaml", out, workers=10**13), "--workers-per-trial"),
        (lambda out: tune("data", "space.yaml", out, retries=10**13), "--retries"),
        (lambda out: tune("data", "space.yaml", out, seeds=-1), "--seeds"),
        (lambda out: tune("data", "space.yaml", out, seconds=math.inf), "--time"),
    ],
)
def test_every_number_of_a_function_is_bounded(tmp_path: Path, call: Any, flag: str) -> None:
    with pytest.raises(AdarError, match=rf"^{flag} .*give ") as caught:
        call(tmp_path / "out")
    assert len(str(caught.value)) < 120
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [2.0, 2.5, True])
def test_a_number_of_things_is_whole(value: float) -> None:
    with pytest.raises(AdarError, match=rf"^--k {value}: give a whole number$"):
        check_number("--k", value, 0, 10)


def test_both_ends_are_included() -> None:
    for value in (0, 5, 10):
        check_number("--k", value, 0, 10)
    for value in (-1, 11, math.nan):
        with pytest.raises(AdarError, match=rf"^--k {value}: give 0 to 10$"):
            check_number("--k", value, 0, 10)
