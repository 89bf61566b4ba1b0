"""What systems are tuned over, and that all are tuned alike."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adar_ray.baselines.names import BASELINES
from adar_ray.comparison import tuning
from adar_ray.comparison.compare import compare
from adar_ray.comparison.folder import Comparison
from adar_ray.comparison.systems import configs_of, space_of, trained_systems
from adar_ray.comparison.users import Split
from adar_ray.comparison.work import Work
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.lease import hold
from adar_ray.registry import SAMPLERS
from adar_ray.storage import Folder
from adar_ray.training.run import Run
from adar_ray.tuning import search
from adar_ray.tuning.parameter import Parameter

SETTINGS = ("model.embedding_dim=8", "train.batch_size=512", "train.epochs=2", "train.device=cpu")
WHAT: dict[str, Any] = {
    "models": ["mf"],
    "samplers": ["uniform", "adar"],
    "baselines": ["popularity", "itemknn"],
    "seeds": 1,
    "trials": 2,
    "settings": [*SETTINGS, "adar.pool=32"],
    "workers": 0,
}


def searched(model: str, sampler: str, settings: Sequence[str] = ()) -> list[str]:
    ((_, sections),) = trained_systems([model], [sampler]).items()
    (config,) = configs_of(sections, 1, settings, {})
    return list(space_of(sections, config, settings, 5).parameters)


def test_what_systems_share_has_one_range_and_samplers_have_their_own() -> None:
    own = {"dns": ["dns.negatives", "dns.candidates", "dns.top"], "in_batch": [], "a.module:mine": []}
    for sampler, keys in own.items():
        assert searched("mf", sampler, ["loss.name=bpr"]) == ["optimizer.lr", "loss.l2", *keys]
        assert searched("mf", sampler) == ["optimizer.lr", "sampled_softmax.temperature", *keys]
    adar = [f"adar.{key}" for key in ("beta", "gamma", "candidates", "hidden_positives", "negatives", "pool")]
    assert searched("mf", "adar", ["loss.name=bpr"])[2:] == adar
    assert searched("mf", "adar")[2:] == [*adar, "adar.weight"]


def test_what_has_no_effect_or_is_set_is_not_tuned() -> None:
    assert searched("mf", "uniform", ["loss.name=bpr"])[2:] == ["uniform.negatives"]
    assert searched("mf", "uniform")[2:] == []  # the batch shares as many as the loss wants
    assert searched("mf", "popularity")[2:] == ["popularity.alpha"]
    assert searched("mf", "uniform", ["optimizer.lr=0.01"]) == ["sampled_softmax.temperature"]
    with pytest.raises(AdarError, match=r"^--trials 5: --set has all that mf-uniform could be tuned over"):
        searched("mf", "uniform", ["optimizer.lr=0.01", "sampled_softmax.temperature=0.1"])


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "all"])
def test_the_first_trial_has_the_defaults(sampler: str) -> None:
    ((_, sections),) = trained_systems(["mf"], [sampler]).items()
    (config,) = configs_of(sections, 1, ["loss.name=bpr"], {})
    space = space_of(sections, config, ["loss.name=bpr"], 5)
    defaults = space.defaults(100, ["loss.name=bpr"])
    assert list(defaults) == list(space.parameters)
    assert space.config(defaults, ["loss.name=bpr"]).used() == config.used()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_can_have_their_defaults(name: str) -> None:
    for key, default in BASELINES[name].defaults.items():
        assert Parameter.model_validate(BASELINES[name].search[key]).allows(default)


def test_a_baseline_is_tuned_and_goes_on_where_it_was(dataset: Dataset, tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    splits = [Split.of(dataset, "valid", [20], {})]

    def tuned(trials: int, metric: str = "ndcg@20") -> tuple[Any, Any, int]:
        told: list[str] = []
        with hold(folder) as lease:
            work = Work(
                folder, lease, dataset, splits, metric, 0, 9, lambda done, total, text: told.append(text)
            )
            found = tuning.tune_baseline(work, "itemknn", trials)
            outcome = work.compute("itemknn", found.chosen.values)
        return found, outcome, sum("trying" in text for text in told)

    part, _, tried = tuned(2)
    assert tried == 2
    assert part.trials[0].values == {"neighbors": 100}
    whole, outcome, tried = tuned(4)
    assert tried == 2
    assert whole.trials[:2] == part.trials
    values = [trial.value for trial in whole.trials]
    assert outcome["valid"].means["ndcg@20"] == max(values) == values[whole.best]
    assert all(5 <= trial.values["neighbors"] <= 1_000 for trial in whole.trials)
    (tmp_path / "tuning" / "itemknn.json").unlink()
    assert tuned(4)[0] == whole
    # What another metric says of the same settings is no trial of this one.
    other, outcome, tried = tuned(4, "recall@20")
    assert tried == 4
    assert outcome["valid"].means["recall@20"] == max(trial.value for trial in other.trials)


class Rated(Work):
    """Work whose baselines are as good as `rate` says of their neighbors."""

    def try_baseline(self, baseline: str, values: Any) -> float:
        return self.rate(values["neighbors"])


def test_what_a_baselines_trials_have_shown_guides_the_next(dataset: Dataset, tmp_path: Path) -> None:
    found = {}
    for name, sign in (("many", 1), ("few", -1)):
        folder = Folder.at(tmp_path / name)
        with hold(folder) as lease:
            splits = [Split.of(dataset, "valid", [20], {})]
            work = Rated(folder, lease, dataset, splits, "ndcg@20", 0, 9, lambda done, total, text: None)
            work.rate = lambda neighbors, sign=sign: sign * float(neighbors)
            trials = tuning.tune_baseline(work, "itemknn", 24).trials
        found[name] = [trial.values["neighbors"] for trial in trials]
    begins = [neighbors[:8] for neighbors in found.values()]  # at random
    assert begins[0] == begins[1]
    assert np.mean(found["many"][8:]) > 3 * np.mean(found["few"][8:])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_all_systems_are_tuned_alike_and_the_best_is_trained(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", []
    result = compare(
        dataset, out, **WHAT, on_progress=lambda done, total, text: told.append(f"{done}/{total} {text}")
    )
    assert {name: len(tuned.trials) for name, tuned in result.tuned.items()} == {
        "itemknn": 2,
        "mf-uniform": 2,
        "mf-adar": 2,
    }
    assert told[-1].startswith("10/10 mf-adar, seed 0: ndcg@20")
    assert any(line.startswith("6/10 mf-uniform: 2 of 2 trials, best ndcg@20 0.") for line in told)
    figures = result.splits["valid"].systems
    for system in ("mf-uniform", "mf-adar"):
        values = result.tuned[system].chosen.values
        assert "adar.pool" not in values
        sections = Run.open(out / "runs" / f"{system}-0").config.used()
        assert all(
            sections[name.partition(".")[0]][name.partition(".")[2]] == value
            for name, value in values.items()
        )
        # The run with the trial's seed repeats the trial.
        assert figures[system].metrics["ndcg@20"] == pytest.approx(result.tuned[system].chosen.value)
    assert "## tuning" in (out / "table.md").read_text()
    assert "What was chosen" in (out / "report.html").read_text()

    # A search that lacks a trial, as an interrupted one, goes on and comes to the same.
    before = (out / "comparison.json").read_bytes()
    shutil.rmtree(out / "tuning" / "mf-adar" / "trials" / "00001")
    monkeypatch.setattr(search, "tune", None)
    assert compare(dataset, out, **WHAT) == result
    assert (out / "comparison.json").read_bytes() == before

    monkeypatch.setattr(search, "resume_search", None)
    assert compare(dataset, out, **WHAT) == result
    for change, problem in (
        ({"trials": 3}, "holds a comparison with --trials 2, not 3; choose another folder"),
        ({"settings": SETTINGS}, "mf-uniform: was tuned otherwise (settings); choose another folder"),
    ):
        with pytest.raises(AdarError) as caught:
            compare(dataset, out, **{**WHAT, **change})
        assert problem in str(caught.value)
    assert Folder.at(out).read_record("comparison.json", Comparison) == result
