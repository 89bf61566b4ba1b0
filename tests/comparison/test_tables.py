"""The tables of a comparison, from figures that are made by hand."""

from __future__ import annotations

import pytest

from adar_ray.comparison.folder import Comparison, Tuned, TunedTrial
from adar_ray.comparison.tables import notes, table, to_latex, to_markdown, tuning_table, verdict
from tests.comparison.made import made_up_comparison


@pytest.fixture
def comparison() -> Comparison:
    return made_up_comparison()


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
    assert "shop <b>, valid: all items ranked for 1,234 users." in told
    assert "paired t-test over users of mrr@5 against popularity, corrected for 2 tests (Holm)" in told
    assert "Nothing was tuned" in told
    assert "best epoch was chosen on these same figures" in told
    assert "ease was left out: takes too long." in told


def test_markdown_marks_the_best_of_each_metric(comparison: Comparison) -> None:
    lines = to_markdown(comparison).splitlines()
    assert lines[0] == "## valid"
    assert lines[2].startswith("mf-in_batch is 50.0% above popularity in mrr@5")
    assert lines[4] == "| system | recall@5 | ndcg@5 | mrr@5 | over popularity | p |"
    assert lines[6] == "| popularity | **0.2500** | 0.2000 | 0.1000 |  |  |"
    assert lines[7].startswith(
        "| mf-in_batch | 0.2400 ± 0.0100 | **0.3000 ± 0.0020** | **0.1500 ± 0.0000** |"
    )
    assert len({line.count("|") for line in lines[4:9]}) == 1


def test_latex_escapes_and_marks_the_best_of_each_metric(comparison: Comparison) -> None:
    text = to_latex(comparison)
    assert r"\begin{tabular}{lrrrrr}" in text
    assert r"mf-in\_batch & 0.2400 $\pm$ 0.0100 & \textbf{0.3000 $\pm$ 0.0020} & " in text
    assert r"& +50.0\% & $<$ 0.001 \\" in text
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 4
    assert {line.count("&") for line in body} == {5}
    assert "% ease was left out: takes too long." in text.splitlines()


def test_the_verdict_is_on_the_best_system_beside_the_reference(comparison: Comparison) -> None:
    assert verdict(comparison, "valid") == (
        "mf-in_batch is 50.0% above popularity in mrr@5, which is more than chance "
        "(p < 0.001, of 2 systems tested)."
    )
    systems = comparison.splits["valid"].systems
    better = comparison.model_copy(update={"reference": "mf-in_batch"})
    systems["popularity"] = systems["popularity"].model_copy(update={"gain": -1 / 3, "p_holm": 0.06})
    assert verdict(better, "valid") == (
        "Nothing is above mf-in_batch in mrr@5; popularity comes next, 33.3% below it, which is perhaps "
        "chance (p = 0.060, of 2 systems tested)."
    )
    del systems["popularity"], systems["mf-adar"]
    assert verdict(better, "valid") == ""


def test_beside_a_reference_that_finds_nothing_there_is_no_gain(comparison: Comparison) -> None:
    systems = comparison.splits["valid"].systems
    nothing = dict.fromkeys(systems["popularity"].metrics, 0.0)
    systems["popularity"] = systems["popularity"].model_copy(update={"metrics": nothing})
    for name in ("mf-in_batch", "mf-adar"):
        systems[name] = systems[name].model_copy(update={"gain": None})
    assert [row["over popularity"] for row in table(comparison, "valid")] == [""] * 3
    assert verdict(comparison, "valid") == (
        "mf-in_batch has 0.1500 in mrr@5, and popularity 0, which is more than chance "
        "(p < 0.001, of 2 systems tested)."
    )


def test_every_character_that_latex_reads_otherwise_is_escaped(comparison: Comparison) -> None:
    systems = comparison.splits["valid"].systems
    systems["a#b$c%d&e_f{g}h~i^j\\k<l"] = systems.pop("mf-adar")
    text = to_latex(comparison)
    assert (r"a\#b\$c\%d\&e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k$<$l & ") in text


def test_what_systems_were_tuned_to_is_told_beside_their_defaults(comparison: Comparison) -> None:
    trials = [(0.001, 0.12), (0.01, None), (0.0123456, 0.15), (0.02, 0.15)]
    tuned = Tuned.of(TunedTrial(values={"optimizer.lr": lr}, value=value) for lr, value in trials)
    assert tuned.best == 2
    comparison = comparison.model_copy(update={"trials": 4, "tuned": {"mf-adar": tuned}})
    (row,) = tuning_table(comparison)
    assert row == {
        "system": "mf-adar",
        "trials": "4",
        "failed": "1",
        "first mrr@5": "0.1200",
        "best mrr@5": "0.1500",
        "best trial": "00002",
        "settings": "optimizer.lr=0.01235",
    }
    text = to_markdown(comparison)
    assert "Each system was tuned with 4 trials on validation" in text
    assert "Settings and each run's best epoch were chosen on these same figures." in text
    assert "| mf-adar | 4 | 1 | 0.1200 | 0.1500 | 00002 | optimizer.lr=0.01235 |" in text
    assert "Without settings to tune: popularity, mf-in_batch." in text
