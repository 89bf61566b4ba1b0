"""The search folder: what is written is read back, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adar_ray.documents import to_record, to_sealed_yaml
from adar_ray.storage import Folder
from adar_ray.tuning.folder import MetricOverSeeds, Search, WinnerResult, check_new, summary
from adar_ray.tuning.trial import Trial
from tests import sealed
from tests.tuning.spaces import a_search, refusal, space


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = a_search(tmp_path, settings=("adar.candidates=4",), seconds=3.5, concurrent=2)
    written.write()
    assert Search.open(tmp_path / "search") == written


def test_a_trial_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = {"adar.beta": 0.5, "adar.negatives": 4, "model.cosine": True, "loss.name": "bpr"}
    choices = {name: {"choice": [values[name]]} for name in ("model.cosine", "loss.name")}
    parameters = {"adar.beta": {"uniform": [0.5, 0.9]}, "adar.negatives": {"integer": [1, 8]}, **choices}
    search = a_search(tmp_path, space=space(parameters))
    trials = [
        Trial(number=0, values=values, started=1.5, status="finished", value=0.25, curve=[0.1, 0.25]),
        Trial(number=1, values={}, started=3.0, status="failed", error="no"),
        Trial(number=2, values={"adar.beta": 0.5}, taken_over={"adar.beta": 0.75}, started=4.0),
    ]
    for trial in trials[::-1]:
        search.write_trial(trial)
    read = search.read_trials()
    assert read == trials
    assert [type(value) for value in read[0].values.values()] == [float, int, bool, str]
    content = sealed.read(Path(tmp_path, "search", "trials", "00000", "trial.json"))
    assert list(content) == [
        *(
            "number",
            "values",
            "taken_over",
            "started",
            "status",
            "epochs",
            "best_epoch",
            "value",
            "seconds",
            "error",
            "curve",
        )
    ]


def test_the_table_has_a_column_per_parameter(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    search.write_table(
        [
            Trial(number=0, values={"adar.beta": 0.5}, started=0.0, status="finished", value=0.25),
            Trial(number=1, values={"dns.top": 2}, started=1.0, status="failed", error="no"),
        ]
    )
    rows = search.folder.read_table("trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == ["00000", "00001"]
    assert [(row["adar.beta"], row["dns.top"], row["error"]) for row in rows] == [
        (0.5, None, None),
        (None, 2, "no"),
    ]
    assert "curve" not in rows[0]


def test_a_summary_has_the_winners_figures_at_the_cutoff_of_the_search(tmp_path: Path) -> None:
    search = a_search(tmp_path, space=space({"adar.beta": {"uniform": [0.5, 0.9]}}, metric="ndcg@10"))
    search.write()
    for number, (status, value) in enumerate([("finished", 0.25), ("stopped", 0.5), ("failed", None)]):
        search.write_trial(
            Trial(
                number=number, values={"adar.beta": 0.5 + number / 8}, started=0, status=status, value=value
            )
        )
    counts = {"search": search.folder.address, "trials": 3, "finished": 1, "stopped": 1, "failed": 1}
    best = {"best trial": "00001", "valid ndcg@10": 0.5, "adar.beta": 0.625}
    assert summary(search) == counts | best
    of_seeds, of_one = MetricOverSeeds(mean=0.3, deviation=0.01), MetricOverSeeds(mean=0.4, deviation=None)
    for test, shown in (
        (
            {"ndcg@10": of_seeds, "ndcg@20": of_seeds, "recall@10": of_one},
            {"test ndcg@10": 0.3, "test ndcg@10, deviation": 0.01, "test recall@10": 0.4},
        ),
        ({"recall@20": of_one}, {"test recall@20": 0.4}),  # for want of better
    ):
        result = WinnerResult(trial="00001", valid={"ndcg@10": 0.5}, seeds=2, test=test)
        search.folder.write_record("winner/result.json", result)
        assert summary(search) == counts | best | shown


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    search.write()
    file = Path(tmp_path, "search", "search.yaml")
    written = file.read_text()
    content = yaml.safe_load(written)
    for damaged in (
        *(b"3", written[:200].encode(), written.replace("trials: 20", "trials: 21").encode()),
        *(to_sealed_yaml(other) for other in (3, {**content, "trials": "many"}, {**content, "more": 1})),
    ):
        file.write_bytes(damaged)
        assert f"{file}: is damaged" in refusal(Search.open, file.parent)
    Path(tmp_path, "search", "trials", "00000").mkdir(parents=True)
    trial = Path(tmp_path, "search", "trials", "00000", "trial.json")
    for damaged in (b"{", to_record({"number": 0})):
        trial.write_bytes(damaged)
        assert f"{trial}: is damaged" in refusal(search.read_trials)


@pytest.mark.parametrize("value", ["0.5", 2**70])
def test_trials_whose_values_have_different_types_are_refused(tmp_path: Path, value: object) -> None:
    search = a_search(tmp_path)
    trials = [Trial(number=n, values={"adar.beta": v}, started=0) for n, v in enumerate((0.5, value))]
    assert "trial.json has another type of value" in refusal(search.write_table, trials)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    check_new(Folder.at(tmp_path / "new"), replace=False)
    (tmp_path / "mine").touch()
    for replace in (False, True):
        with pytest.raises(Exception, match=r"not a search|search\.yaml"):
            check_new(Folder.at(tmp_path), replace=replace)
    a_search(tmp_path).write()
    assert "--resume" in refusal(check_new, Folder.at(tmp_path / "search"), replace=False)
    check_new(Folder.at(tmp_path / "search"), replace=True)
    assert (tmp_path / "search" / "search.yaml").exists()  # it stays until another takes its place
    assert (tmp_path / "mine").exists()


def test_trials_are_read_by_number_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, trials = a_search(tmp_path), [Trial(number=number, values={}, started=0) for number in range(12)]
    # One digit is too few for twelve, as five are for a hundred thousand.
    monkeypatch.setattr("adar_ray.tuning.folder._trial_name", lambda number: f"trials/{number}")
    monkeypatch.setattr(Trial, "name", property(lambda trial: str(trial.number)))
    for trial in trials:
        search.write_trial(trial)
    assert search.read_trials() == trials


def test_a_trial_that_is_missing_is_named(tmp_path: Path) -> None:
    search = a_search(tmp_path)
    for number in range(3):
        search.write_trial(Trial(number=number, values={}, started=0))
    search.folder.delete("trials/00001")
    assert f"{search.folder}/trials/00001/trial.json: is missing" in refusal(search.read_trials)
    search.folder.move("trials/00002", "trials/00001")
    assert "trials/00001/trial.json: is damaged (it is trial 00002)" in refusal(search.read_trials)
