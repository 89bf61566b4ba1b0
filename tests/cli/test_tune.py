"""`tune`, and `report` of a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from adar_ray.tuning.trial import Trial
from tests.calling import Adar
from tests.tuning.spaces import a_search


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


def test_the_report_of_a_search(adar: Adar, tmp_path: Path) -> None:
    """Also of one that still runs, or was interrupted."""
    search = a_search(tmp_path)
    search.write()
    ended = {"status": "finished", "epochs": 1, "best_epoch": 1, "value": 0.25}
    search.write_trial(Trial(number=0, values={"adar.beta": 0.7}, started=0, **ended))
    search.write_trial(Trial(number=1, values={"adar.beta": 0.8}, started=1))
    folder, page = tmp_path / "search", tmp_path / "page.html"
    row = adar("report", folder, "--html", page, "--json").json()
    assert (row["search"], row["trials"], row["finished"], row["failed"]) == (str(folder), 2, 1, 0)
    assert (row["best trial"], row["valid ndcg@20"], row["adar.beta"]) == ("00000", 0.25, 0.7)
    assert "The best trial" in page.read_text()
    beside = adar("report", folder, folder / "winner" / "seed-0")
    assert beside.status == 2
    assert f"{folder} is a search: give it alone" in beside.err
