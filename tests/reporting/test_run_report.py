"""The page about runs: what it says against the records of made-up runs."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects
import pytest

from adar_ray.reporting.run_report import run_report
from adar_ray.training.run import METRICS
from tests.reporting.made import Page, made_up_run


def facts(parsed: Page) -> dict[str, list[str]]:
    """The first table: the cells of each row, by the first of them."""
    width = len(parsed.texts("th")) - 3  # the last three head the table of metrics
    cells = parsed.texts("td")
    rows = [cells[at : at + width] for at in range(0, len(cells), width)]
    return {row[0]: row[1:] for row in rows}


def test_a_run(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "a run", "sampler.name=adar", "loss.name=bpr")
    page = run_report([run])
    parsed = Page(page)
    assert parsed.nested
    assert parsed.texts("h1") == ["Run a run"]
    assert parsed.texts("h2") == [
        "a run: test",
        "Validation ndcg@20",
        "Loss",
        "Hardness of the negatives",
        "Timesteps of the negatives",
        "How timesteps are spread",
    ]
    known = facts(parsed)
    assert known["dataset"] == ["/data/<b>shop"]
    assert known["began"] == ["2026-11-27 20:55 UTC"]
    assert known["versions"] == ["python 3.11.2, torch 2.13.0"]
    assert known["changed"] == ["from epoch 5 optimizer.lr 0.003 instead of 0.01"]
    assert known["best epoch"] == ["9"]
    assert known["valid ndcg@20"] == ["0.2000"]
    assert known["test recall@20"] == ["0.2000"]
    config = f"'{tmp_path}/a run/config.yaml'"
    assert known["train again"] == [
        f"adar-ray train --config {config} --data '/data/<b>shop' --workers 1:4 --out RUN"
    ]
    assert parsed.texts("td")[-6:] == ["recall", "0.1000", "0.2000", "popularity", "100.0", "200.0"]
    assert "Means over 6,040 users" in page

    figures = parsed.figures()
    for content in figures.values():
        plotly.graph_objects.Figure(content)  # raises ValueError
    (line,) = figures["ndcg@20 over epochs"]["data"]
    assert line["x"] == list(range(1, 13))
    assert line["y"] == pytest.approx([0.2 - 0.001 * (epoch - 9) ** 2 for epoch in range(1, 13)])
    assert line["hovertext"][8] == "a run, epoch 9<br>ndcg@20 0.2<br>recall@20 0.25"
    assert line["marker"]["size"].index(11) == 8
    (line,) = figures["timestep over epochs"]["data"]
    assert line["y"] == pytest.approx([0.03 * epoch for epoch in range(1, 13)])
    (heat,) = figures["timesteps of a run over epochs"]["data"]
    assert [row[0] for row in heat["z"]] == [0.1, 0.2, 0.4, 0.3, 0]
    assert heat["y"] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [
        made_up_run(tmp_path / "a" / "run", "sampler.name=adar"),
        made_up_run(tmp_path / "b" / "run", "sampler.name=uniform", epochs=4, best=4),
    ]
    parsed = Page(run_report(runs))
    assert parsed.texts("h1") == ["2 runs"]
    assert parsed.texts("th")[:3] == ["", "a/run", "b/run"]
    figures = parsed.figures()
    first, second = figures["loss over epochs"]["data"]
    assert second["y"] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert second["hovertext"][3] == "b/run, epoch 4<br>loss 0.25<br>penalty 0.01"
    assert first["line"] != second["line"]
    assert len(figures["timestep over epochs"]["data"]) == 1  # uniform negatives have none


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = made_up_run(tmp_path / "<i>run", "sampler.name=uniform")
    for name in ("result.json", "evaluation", METRICS):
        run.folder.delete(name)
    parsed = Page(run_report([run]))
    assert parsed.nested
    assert parsed.texts("h1") == ["Run <i>run"]
    assert parsed.texts("h2") == []


def test_names_are_text_in_figures_too(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path / name) for name in ("<i>one", "two")]
    page = run_report(runs)
    assert "i" not in {element["tag"] for element in Page(page).elements}
    line = Page(page).figures()["loss over epochs"]["data"][0]
    assert line["name"] == "&lt;i&gt;one"
    assert line["hovertext"][0].startswith("&lt;i&gt;one, epoch 1<br>")
