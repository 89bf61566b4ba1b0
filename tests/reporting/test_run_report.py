"""The page about runs: what it says against the records of made-up runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import plotly.graph_objects
import pytest
from scipy.stats import ttest_rel

from adar_ray.errors import AdarError
from adar_ray.reporting.run_report import run_report
from adar_ray.training.run import METRICS
from tests.reporting.made import Page, made_up_run


def facts(parsed: Page) -> dict[str, list[str]]:
    """The first table: the cells of each row, by the first of them."""
    width = parsed.texts("th").index("metric")  # the first of the next table
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
        "Compare with uniform negatives",
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
    again = f"adar-ray train --config {config} --data '/data/<b>shop' --workers 1:4"
    assert known["train again"] == [f"{again} --out RUN"]
    metrics, uniform = parsed.texts("td")[-12:-6], parsed.texts("td")[-6:]
    assert metrics == ["recall", "0.1000", "0.2000", "popularity", "100.0", "200.0"]
    assert uniform[1::2] == [
        f"{again} --set sampler.name=uniform --out UNIFORM",
        "adar-ray evaluate UNIFORM",
        f"adar-ray report '{tmp_path}/a run' UNIFORM --html REPORT.html",
    ]
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


VALUES = [0.10, 0.35, 0.20, 0.50, 0.15]


def test_groups_samples_and_differences_of_runs(tmp_path: Path) -> None:
    better = [value + gain for value, gain in zip(VALUES, (0.1, 0.12, 0.09, 0.1, 0.11), strict=True)]
    runs = [
        made_up_run(tmp_path / name, f"sampler.name={name}", "loss.name=bpr", evaluated=values)
        for name, values in (("adar", better), ("uniform", VALUES), ("dns", VALUES))
    ]
    page = run_report(runs)
    parsed = Page(page)
    assert parsed.nested
    assert {"b", "i"}.isdisjoint(element["tag"] for element in parsed.elements)
    p = 2 * ttest_rel(better, VALUES).pvalue  # Holm
    assert p < 0.05
    said = parsed.texts("p")
    assert (
        "adar reaches 0.3640 in ndcg@20, and uniform 0.2600, +40.0%. The difference is more than chance "
        in (" ".join(said))
    )
    assert p < 0.001
    assert "(p < 0.001)" in page.replace("&lt;", "<")
    assert (
        "dns reaches 0.2600 in ndcg@20, and uniform 0.2600, +0.0%. The difference is perhaps chance "
        "(p = 1.000)." in said
    )
    assert "p is that of a paired t-test over 5 users, Holm's correction." in said
    assert (
        "the model reaches 0.2600 in ndcg@20, and popularity 0.1300, +100.0%. The difference is more than "
        "chance (p = 0.012)."
    ) in " ".join(said)

    figures = parsed.figures()
    for content in figures.values():
        plotly.graph_objects.Figure(content)  # raises ValueError
    bars = figures["ndcg@20 by a user's number of items in training"]["data"]
    assert [bar["name"] for bar in bars] == ["adar", "uniform", "dns"]
    assert bars[0]["x"] == ["1 – 20", "21 – 57", "58 – 130", "131 – 2314"]
    assert bars[0]["y"] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert bars[0]["hovertext"][1] == "adar<br>21 – 57: 1,509 users<br>ndcg@20 0.3"
    (cohort, *_) = figures["ndcg@20 by a user's first interaction"]["data"]
    assert cohort["x"] == ["2000-04-25 –<br>2000-07-11", "2000-07-11"]
    assert figures["share@20 by an item's users in training"]["data"][0]["y"] == [0, 0.1, 0.2]
    row = parsed.texts("td")[-3:]
    assert row[0] == "u7 <b>"
    assert row[1] == "Alien (1979) · A film with a title that goes on and on, The (1995)"
    assert row[2] == "Brazil <i> · Heat ✓ · Seven · Fargo · Twelve Monkeys (1995)"


def test_groups_that_no_held_out_item_is_in(tmp_path: Path) -> None:
    """All that is known of such a group of items is its share of the recommendations."""
    run = made_up_run(tmp_path / "run", evaluated=VALUES)
    measured = run.evaluations()["test"]
    first, *others = measured.groups["popularity"]
    first = first.model_copy(update={"users": 0, "metrics": {"share@20": 0.3}})
    for groups, recalls in (([first, *others], [[None, 0.1, 0.2]]), ([first], [])):
        changed = measured.model_copy(update={"groups": {"popularity": groups}})
        run.folder.write_record("evaluation/test.json", changed)
        figures = Page(run_report([run])).figures()
        shares = [figure["data"][0]["y"] for name, figure in figures.items() if name.startswith("share@20")]
        assert shares == [[0.3, *(group.metrics["share@20"] for group in groups[1:])]]
        assert recalls == [
            figure["data"][0]["y"]
            for name, figure in figures.items()
            if name.startswith("recall@20 by an item")
        ]


def test_runs_on_other_data_are_not_tested_against_each_other(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path / name, evaluated=VALUES) for name in ("one", "two")]
    other = replace(runs[1], info=runs[1].info.model_copy(update={"dataset_checksum": "1" * 64}))
    assert "the difference" in run_report(runs)
    assert "the difference" not in run_report([runs[0], other])


def test_figures_of_users_that_are_not_those_of_the_evaluation_are_refused(tmp_path: Path) -> None:
    runs = [made_up_run(tmp_path / name, evaluated=VALUES) for name in ("one", "two")]
    (tmp_path / "two" / "evaluation" / "test.parquet").write_bytes(b"other")
    with pytest.raises(AdarError, match=r"two/evaluation/test.parquet: is damaged .*evaluate again"):
        run_report(runs)
