"""The spaces in tune_spaces/."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adar_ray.config import Config
from adar_ray.registry import SAMPLERS
from adar_ray.tuning.checks import check
from adar_ray.tuning.space import Space
from tests.tuning.spaces import draw

SHIPPED = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.yaml"))


@pytest.mark.parametrize("mode", ["python", "json"])
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_what_is_dumped_reads_back_as_the_same(file, mode):
    read = Space.load(file)
    again = Space.from_mapping(yaml.safe_load(yaml.safe_dump(read.model_dump(mode=mode))), "dump")
    assert again == read
    assert again.model_dump() == read.model_dump()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_spaces_are_sound_and_every_draw_is_a_configuration(file):
    shipped = Space.load(file)
    check(shipped)
    assert file.read_text().startswith("# ")
    for values in draw(shipped, 50):
        config = shipped.config(values)
        assert {
            name: config.model_dump()[name.split(".")[0]][name.split(".")[1]] for name in values
        } == values


def test_there_are_five_shipped_spaces():
    assert [file.stem for file in SHIPPED] == ["joint", "samplers", "score_aware", "sequential", "smoke"]


def test_samplers_searches_every_samplers_own_parameters():
    """Those that only one sampler has; what `all` has is another loss."""
    shipped = Space.load(SHIPPED[1])
    names = set(shipped.parameters["sampler.name"].choice)
    assert names == set(SAMPLERS) - {"all"}
    own = {
        f"{name}.{key}" for name in ("ahns", "dens", "srns") for key in getattr(Config(), name).model_dump()
    }
    assert own <= set(shipped.parameters)
    for values in draw(shipped, 100):
        assert {name.split(".")[0] for name in values} & {"adar", "ahns", "dens", "srns"} <= {
            values["sampler.name"]
        }


def test_smoke_is_small():
    shipped = Space.load(SHIPPED[-1])
    assert len(shipped.grid()) <= shipped.budget.trials <= 8
    assert shipped.config({}).train.epochs <= 3
