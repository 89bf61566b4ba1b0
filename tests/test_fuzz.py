"""Mutated files of every kind are read, or refused by the project's own error, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from adar_ray.documents import parse_yaml
from benchmarks.fuzz import fuzz
from benchmarks.fuzz_mutations import mutate_bytes, mutate_document, mutate_tree
from benchmarks.fuzz_targets import NAMES, targets

INPUTS = 100  # of each kind: 20 seconds for all; `python -m benchmarks.fuzz` tries 20,000


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return fuzz(NAMES, INPUTS, 0, tmp_path_factory.mktemp("faults"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_input_is_read_or_refused(figures: dict[str, dict[str, Any]], name: str) -> None:
    row = figures[name]
    assert row["faults"] == 0  # the fixture's output shows them
    assert row["read"] + row["refused"] == row["tried"] == INPUTS
    assert (row["read"] > 0) == (name != "damage")  # of which every change has to be refused
    assert row["refused"]


def test_every_valid_input_is_read(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    known = targets(tmp_path / "files")
    assert tuple(known) == NAMES
    for name, target in known.items():
        for number, files in enumerate(target.originals):
            folder = tmp_path / f"{name}-{number}"
            for file, data in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(data)
            target.read(Random(0), folder)


def test_mutations_follow_from_the_seed_and_leave_the_original_alone() -> None:
    tree = {"a": [1, {"b": 2}], "c": "d"}
    data = b"a: [1, {b: 2}]\nc: d\n"
    for mutate in (
        lambda random: mutate_bytes(random, data),
        lambda random: mutate_document(random, data, tree),
        lambda random: repr(mutate_tree(random, tree)),
    ):
        made = [mutate(Random(seed)) for seed in range(200)]
        assert made == [mutate(Random(seed)) for seed in range(200)]
        assert len(set(made)) > 50
    assert tree == parse_yaml(data, "") == {"a": [1, {"b": 2}], "c": "d"}
