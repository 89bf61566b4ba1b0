"""`tune`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.calling import Adar


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("parameters: {adar.bta: {uniform: [0, 1]}}\n", [], ["space.yaml", "adar.bta", "adar.beta?"]),
        ("parameters: {adar.beta: {uniform: [0.9, 0.5]}}\n", [], ["space.yaml", "adar.beta", "empty"]),
        ("parameters: {adar.beta: {uniform: [0.5, 2]}}\n", [], ["space.yaml", "adar.beta"]),
        (
            "parameters: {adar.candidates: {choice: [1, 2]}}\nmetric: auc\n",
            [],
            ["space.yaml", "auc", "ndcg@K"],
        ),
        (
            "parameters: {adar.candidates: {choice: [1, 2]}}\n",
            ["--set", "adar.candidates=3"],
            ["--set adar.candidates=3", "searched"],
        ),
    ],
)
def test_wrong_spaces(
    adar: Adar, data: str, tmp_path: Path, text: str, options: list[str], words: list[str]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    line = adar("tune", "--data", data, "--space", file, "--out", tmp_path / "search", *options).line()
    assert all(word in line for word in words), line
    assert not (tmp_path / "search").exists()
