"""`compare`."""

from __future__ import annotations

import html
import inspect
import shlex
from pathlib import Path

from adar_ray import compare
from adar_ray.cli.compare import compare_command
from adar_ray.config import ModelConfig
from adar_ray.data.dataset import Dataset
from tests.calling import Adar
from tests.cli.conftest import SET


def test_by_default_the_default_model_is_compared() -> None:
    (option,) = (option for option in compare_command.params if option.name == "models")
    of_python = inspect.signature(compare).parameters["models"].default
    assert of_python == (option.default,) == (ModelConfig().name,)


def test_a_comparison_prints_a_table_and_continues(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    words = ["compare", dataset.folder.address, "--out", tmp_path / "out", "--workers", 0, *SET]
    words += ["--samplers", "uniform, adar", "--baselines", "popularity", "--seeds", 1]
    ended = adar(*words, "--test")
    assert ended.status == 0
    for split in ("valid", "test"):
        assert ended.out.count(f"\n{split}") + ended.out.startswith(split) == 1
    assert ended.out.count("lightgcn-adar") == 2
    assert "over popularity" in ended.out
    assert "  3/3  lightgcn-adar, seed 0: ndcg@20 0." in ended.err
    assert "corrected for 2 tests (Holm)" in ended.err
    result = adar(*words, "--json").json()
    assert result["reference"] == "popularity"
    assert list(result["splits"]["valid"]["systems"]) == ["popularity", "lightgcn-uniform", "lightgcn-adar"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table.md", "table.tex", "report.html", "comparison.json", "users", "runs"} <= written

    shown = adar("report", tmp_path / "out", "--html", tmp_path / "page.html")
    assert shown.status == 0
    assert shown.out == ended.out[: len(shown.out)]  # without test, which was not asked for again
    assert shown.out.count("lightgcn-adar") == 1
    page = (tmp_path / "page.html").read_text()
    for told in (
        "of 2 systems tested",
        "Validation ndcg@20 by a user&#x27;s number of items in training",
        "Hardness of the negatives",
        "torch 2.",
    ):
        assert told in page
    assert html.escape(shlex.join(map(str, ["adar-ray", *words[:4]]))) in page.replace("<wbr>", "")
    assert written == {path.name for path in (tmp_path / "out").iterdir()}
    assert adar("report", tmp_path / "out", "--json").json() == result
    beside = adar("report", tmp_path / "out", tmp_path / "out" / "runs" / "lightgcn-adar-0")
    assert beside.status == 2
    assert "is a comparison: give it alone" in beside.err
    (tmp_path / "out" / "comparison.json").unlink()
    assert "is not finished; continue with `adar-ray compare " in adar("report", tmp_path / "out").line()


def test_nothing_is_compared_with_a_name_that_is_wrong(adar: Adar, dataset: Dataset, tmp_path: Path) -> None:
    words = ["compare", dataset.folder.address, "--out", tmp_path / "out"]
    assert "did you mean ease?" in adar(*words, "--baselines", "easy").line()
    assert adar(*words, "--models", "").status == 1
    assert adar(*words, "--seeds", 0).status == 2
    assert not (tmp_path / "out").exists()
