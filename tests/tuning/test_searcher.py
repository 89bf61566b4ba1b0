"""What proposes trials: numbers, values, and what an earlier start has left."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.tuning.process import quiet_optuna
from adar_ray.tuning.searcher import StudySearcher
from adar_ray.tuning.trial import Trial
from tests.tuning.spaces import a_search, refusal, space


def test_trials_are_numbered_and_written_down_before_they_run(tmp_path: Path) -> None:
    searcher = StudySearcher(a_search(tmp_path, trials=3), [], lambda: 1.5)
    proposed = [searcher.suggest(name) for name in "abcd"]
    assert proposed[3] == searcher.FINISHED
    written = searcher.search.read_trials()
    assert [trial.number for trial in written] == [0, 1, 2]
    assert [trial.values for trial in written] == [config["values"] for config in proposed[:3]]
    assert {trial.started for trial in written} == {1.5}


def test_a_study_that_was_told_of_earlier_trials_searches_near_the_best(tmp_path: Path) -> None:
    """TPE proposes near 0.8, where all good trials were; without knowledge it is uniform."""
    known = [
        Trial(
            number=n,
            values={"adar.beta": 0.5 + 0.01 * n},
            started=0.0,
            status="finished",
            value=1 - abs(0.3 - 0.01 * n),
        )
        for n in range(40)
    ]
    searcher = StudySearcher(a_search(tmp_path, trials=60), known, lambda: 0.0)
    betas = []
    for n in range(20):
        config = searcher.suggest(str(n))
        assert config["number"] == 40 + n
        betas.append(config["values"]["adar.beta"])
        searcher.trials[40 + n].value = 1 - abs(0.8 - betas[-1])
        searcher.on_trial_complete(str(n))
    assert sum(abs(beta - 0.8) < 0.06 for beta in betas) >= 14


def test_what_was_interrupted_comes_first_and_keeps_its_number_and_values(tmp_path: Path) -> None:
    known = [
        Trial(number=0, values={"adar.beta": 0.6}, started=0.0, status="finished", value=0.1),
        Trial(number=1, values={"adar.beta": 0.7}, started=1.0, status="interrupted", value=0.2),
        Trial(number=2, values={"adar.beta": 0.8}, started=2.0, status="failed", error="no"),
        Trial(number=3, values={"adar.beta": 0.9}, started=3.0, status="running"),
    ]
    searcher = StudySearcher(a_search(tmp_path, trials=5), known, lambda: 9.0)
    proposed = [searcher.suggest(name) for name in "abcd"]
    assert [config["number"] for config in proposed[:3]] == [1, 3, 4]
    assert [config["values"]["adar.beta"] for config in proposed[:2]] == [0.7, 0.9]
    assert proposed[3] == searcher.FINISHED


def test_a_study_takes_a_trial_without_a_number_for_a_failed_one(tmp_path: Path) -> None:
    known = [Trial(number=0, values={"adar.beta": 0.6}, started=0.0, status="finished", value=math.nan)]
    searcher = StudySearcher(a_search(tmp_path, trials=3), known, lambda: 0.0)
    searcher.suggest("a")
    searcher.trials[1].value = math.nan
    searcher.on_trial_complete("a")
    assert searcher.suggest("b")["number"] == 2


def test_a_quantized_value_is_written_as_one_would_write_it(tmp_path: Path) -> None:
    quantized = space({"adar.beta": {"quantized": [0.05, 0.95, 0.05]}}, search={"algorithm": "random"})
    searcher = StudySearcher(a_search(tmp_path, space=quantized, trials=60), [], lambda: 0.0)
    for n in range(60):
        searcher.suggest(str(n))
    written = [trial.values["adar.beta"] for trial in searcher.search.read_trials()]
    assert {str(beta) for beta in written} <= {f"{k / 20:.2f}".rstrip("0") for k in range(1, 20)}
    assert 0.15 in written


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
@pytest.mark.parametrize("resumed_at", [1, 5, 12])
def test_a_search_that_was_resumed_proposes_what_it_would_have_proposed(
    tmp_path: Path, algorithm: str, resumed_at: int
) -> None:
    """Trials run one at a time; some fail; the last one had begun when the search was killed."""
    searched = space(
        {"adar.beta": {"uniform": [0.5, 0.9]}, "model.name": {"choice": ["mf", "lightgcn"]}},
        search={"algorithm": algorithm, "seed": 7},
        scheduler={"name": "none"},
    )

    def go_on(searcher: StudySearcher, until: int) -> None:
        while (config := searcher.suggest("x")) is not searcher.FINISHED:
            trial = searcher.trials[config["number"]]
            if trial.number == until:
                return
            failed = trial.number % 4 == 2
            trial.status, trial.value = "failed" if failed else "finished", trial.values["adar.beta"]
            searcher.on_trial_complete("x", error=failed)
            searcher.search.write_trial(trial)

    with quiet_optuna():
        whole = StudySearcher(a_search(tmp_path / "whole", space=searched), [], lambda: 0.0)
        go_on(whole, 20)
        cut = a_search(tmp_path / "cut", space=searched)
        go_on(StudySearcher(cut, [], lambda: 0.0), resumed_at)
        resumed = StudySearcher(cut, cut.read_trials(), lambda: 0.0)
        assert len(resumed.trials) == resumed_at + 1
        go_on(resumed, 20)
    assert [trial.values for trial in resumed.trials.values()] == [t.values for t in whole.trials.values()]
    assert len({trial.values["adar.beta"] for trial in whole.trials.values()}) == 20


def test_the_first_trial_may_have_the_defaults_where_the_ranges_have_them(
    dataset: Dataset, tmp_path: Path
) -> None:
    parameters = {
        "adar.beta": {"uniform": [0.5, 0.95]},  # 0.9 by default
        "adar.negatives": {"choice": [1, 2, 8]},  # 4
        "optimizer.lr": {"loguniform": [1e-4, 1e-1]},
        "loss.name": {"choice": ["bpr", "bce"]},
        "loss.l2": {"loguniform": [1e-4, 1e-1], "when": {"loss.name": "bce"}},
    }
    searched = space(parameters, base={"model": {"name": "mf"}}, search={"defaults": True})
    search = a_search(
        tmp_path,
        space=searched,
        settings=("optimizer.lr=0.07", "loss.name=bpr"),
        data=dataset.folder.address,
        checksum=dataset.checksum,
    )
    searcher = StudySearcher(search, [], lambda: 0.0)
    first, second = (searcher.suggest(name)["values"] for name in "ab")
    assert first.pop("adar.negatives") in (1, 2, 8)
    assert first == {"adar.beta": 0.9, "optimizer.lr": 0.07, "loss.name": "bpr"}
    assert second["optimizer.lr"] != 0.07
    refused = refusal(
        space, {"adar.negatives": {"choice": [1, 2]}}, search={"algorithm": "grid", "defaults": True}
    )
    assert "search.defaults: a grid has points of its own" in refused
