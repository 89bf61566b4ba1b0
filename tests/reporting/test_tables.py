"""Tables that compare runs, and what is said beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.reporting.tables import popularity_warning
from adar_ray.training.records import RunResult
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
