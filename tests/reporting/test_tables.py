"""Tables that compare runs, and what is said beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.reporting.tables import dataset_warning, popularity_warning, side_by_side
from adar_ray.training.records import Evaluation, RunResult
from adar_ray.training.run import Run


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", load_config(settings=["train.metric=recall@20"]), dataset, workers=0)


def finish(run: Run, valid: dict[str, float] | None, popularity: dict[str, float] | None) -> None:
    result = RunResult(best_epoch=1, epochs=1, valid=valid, train_seconds=1.0, popularity=popularity)
    run.folder.write_record("result.json", result)


def test_there_is_a_warning_if_popularity_ranks_better_by_the_metric_of_the_run(run: Run) -> None:
    assert popularity_warning(run) is None  # it is not finished
    finish(run, {"recall@20": 0.187, "ndcg@20": 0.2}, {"recall@20": 0.277, "ndcg@20": 0.1})
    warning = popularity_warning(run)
    assert warning is not None
    assert warning.startswith(
        f"{run.folder}: popularity alone is better on validation (recall@20 0.2770) than the model (0.1870); "
    )


@pytest.mark.parametrize(
    ("valid", "popularity"),
    [
        ({"recall@20": 0.3, "ndcg@20": 0.1}, {"recall@20": 0.277, "ndcg@20": 0.2}),
        ({"recall@20": 0.3}, {"recall@20": 0.3}),
        ({"recall@20": 0.3}, None),  # it was trained by an earlier version
        (None, None),
    ],
)
def test_there_is_none_if_the_model_is_as_good_or_nothing_is_known(
    run: Run, valid: dict[str, float] | None, popularity: dict[str, float] | None
) -> None:
    finish(run, valid, popularity)
    assert popularity_warning(run) is None


def evaluate(run: Run, metrics: dict[str, float], popularity: dict[str, float]) -> None:
    record = Evaluation(split="test", users=3, metrics=metrics, popularity=popularity)
    run.folder.write_record("evaluation/test.json", record)


@pytest.mark.parametrize(
    ("measured", "shown"),
    [
        (["recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@20"], ["recall@20", "ndcg@20"]),
        (["recall@5", "ndcg@5", "recall@50", "ndcg@50"], ["recall@5", "ndcg@5"]),
        (["recall@20", "ndcg@5", "recall@5"], ["recall@20"]),
    ],
)
def test_of_test_there_are_metrics_at_20_or_the_smallest_cutoff_and_that_of_the_run(
    run: Run, measured: list[str], shown: list[str]
) -> None:
    evaluate(run, dict.fromkeys(measured, 0.25), {"ndcg@5": 0.125})
    (row,) = side_by_side([run])
    found = [name for name in row if name.startswith("test ")]
    popularity = ["test ndcg@5 of popularity"] if "ndcg@5" in shown else []
    assert found == [*(f"test {name}" for name in shown), *popularity]


def test_the_metric_of_the_run_is_always_there(dataset: Dataset, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", load_config(settings=["train.metric=ndcg@5"]), dataset, workers=0)
    evaluate(run, {"ndcg@5": 0.5, "ndcg@20": 0.25}, {})
    assert {"test ndcg@5": 0.5, "test ndcg@20": 0.25}.items() <= side_by_side([run])[0].items()


def test_there_is_a_warning_if_runs_are_on_different_datasets(run: Run, tmp_path: Path) -> None:
    assert dataset_warning([run, run]) is None
    other = Dataset.open(Path(__file__).parents[1] / "golden" / "data")
    elsewhere = Run.create(tmp_path / "other", load_config(), other, workers=0)
    assert "cannot be compared" in (dataset_warning([run, elsewhere]) or "")
