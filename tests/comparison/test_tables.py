"""The tables of a comparison, from figures that are made by hand."""

from __future__ import annotations

import pytest

from adar_ray.comparison.folder import Comparison, SplitFigures, SystemFigures
from adar_ray.comparison.tables import notes, table, to_latex, to_markdown


@pytest.fixture
def comparison() -> Comparison:
    systems = {
        "popularity": SystemFigures(
            runs=1, metrics={"recall@5": 0.25, "ndcg@5": 0.2, "mrr@5": 0.1}, deviations=None
        ),
        "mf-in_batch": SystemFigures(
            runs=3,
            metrics={"recall@5": 0.24, "ndcg@5": 0.3, "mrr@5": 0.15},
            deviations={"recall@5": 0.01, "ndcg@5": 0.002, "mrr@5": 0.0},
            gain=0.5,
            p=0.0002,
            p_holm=0.0004,
        ),
        "mf-adar": SystemFigures(
            runs=3,
            metrics={"recall@5": 0.2, "ndcg@5": 0.1, "mrr@5": 0.09},
            deviations={"recall@5": 0.01, "ndcg@5": 0.002, "mrr@5": 0.0},
            gain=-0.1,
            p=0.04,
            p_holm=0.04,
        ),
    }
    return Comparison(
        dataset="shop",
        data="/data/shop",
        checksum="0",
        metric="mrr@5",
        reference="popularity",
        left_out={"ease": "ease: takes too long"},
        splits={"valid": SplitFigures(users=1234, systems=systems)},
    )


def test_a_row_has_the_metrics_the_gain_and_the_corrected_p(comparison: Comparison) -> None:
    popularity, in_batch, adar = table(comparison, "valid")
    assert popularity == {
        "system": "popularity",
        "recall@5": "0.2500",
        "ndcg@5": "0.2000",
        "mrr@5": "0.1000",
        "over popularity": "",
        "p": "",
    }
    assert in_batch["ndcg@5"] == "0.3000 ± 0.0020"
    assert (in_batch["over popularity"], in_batch["p"]) == ("+50.0%", "< 0.001")
    assert (adar["over popularity"], adar["p"]) == ("-10.0%", "0.040")


def test_the_notes_say_how_it_was_tested_and_what_is_missing(comparison: Comparison) -> None:
    told = " ".join(notes(comparison, "valid"))
    assert "shop, valid: all items ranked for 1,234 users." in told
    assert "paired t-test over users of mrr@5 against popularity, corrected for 2 tests (Holm)" in told
    assert "Nothing was tuned" in told
    assert "best epoch was chosen on these same figures" in told
    assert "ease was left out: takes too long." in told


def test_markdown_marks_the_best_of_each_metric(comparison: Comparison) -> None:
    lines = to_markdown(comparison).splitlines()
    assert lines[0] == "## valid"
    assert lines[2] == "| system | recall@5 | ndcg@5 | mrr@5 | over popularity | p |"
    assert lines[4] == "| popularity | **0.2500** | 0.2000 | 0.1000 |  |  |"
    assert lines[5].startswith(
        "| mf-in_batch | 0.2400 ± 0.0100 | **0.3000 ± 0.0020** | **0.1500 ± 0.0000** |"
    )
    assert len({line.count("|") for line in lines[2:7]}) == 1


def test_latex_escapes_and_marks_the_best_of_each_metric(comparison: Comparison) -> None:
    text = to_latex(comparison)
    assert r"\begin{tabular}{lrrrrr}" in text
    assert r"mf-in\_batch & 0.2400 $\pm$ 0.0100 & \textbf{0.3000 $\pm$ 0.0020} & " in text
    assert r"& +50.0\% & $<$ 0.001 \\" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 4
    assert {line.count("&") for line in body} == {5}
    assert "% ease was left out: takes too long." in text.splitlines()
