"""Publishing: the better run stays published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.inference.publish import publish
from adar_ray.training.records import RunResult
from adar_ray.training.run import Run
from tests import sealed
from tests.cluster.jobs import message_of


def finished(folder: Path, dataset: Dataset, ndcg: float, metric: str = "ndcg@20") -> Run:
    run = Run.create(folder, load_config(settings=[f"train.metric={metric}"]), dataset, 0)
    write_result(run, {metric: ndcg})
    return run


def write_result(run: Run, valid: dict[str, float] | None) -> None:
    result = RunResult(best_epoch=1, epochs=1, valid=valid, train_seconds=1.0)
    run.folder.write_record("result.json", result)


def test_the_better_run_is_published(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "place"
    good, better, worse = (
        finished(tmp_path / name, dataset, ndcg)
        for name, ndcg in (("good", 0.3), ("better", 0.4), ("worse", 0.2))
    )

    def current() -> dict[str, Any]:
        return sealed.read(place / "published.json")

    assert publish(good, place, "top").published
    assert current() == {
        "run": good.folder.address,
        "metric": "ndcg@20",
        "value": 0.3,
        "recommendations": "top",
    }
    refused = publish(worse, place)
    assert (refused.published, refused.offered, refused.value) == (False, 0.2, 0.3)
    assert current()["run"] == good.folder.address
    assert publish(better, place).published
    assert current()["run"] == better.folder.address
    assert publish(finished(tmp_path / "as-good", dataset, 0.4), place).published
    assert current()["run"] == str(tmp_path / "as-good")
    assert [path.name for path in place.iterdir()] == ["published.json"]


def test_a_run_without_validation_metrics_is_not_published(dataset: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "place"
    unfinished = Run.create(tmp_path / "unfinished", load_config(), dataset, 0)
    assert "adar-ray train --resume" in message_of(lambda: publish(unfinished, place))
    blind = Run.create(tmp_path / "blind", load_config(), dataset, 0)
    write_result(blind, None)
    assert "--valid-fraction" in message_of(lambda: publish(blind, place))
    assert not place.exists()
    publish(finished(tmp_path / "good", dataset, 0.3), place)
    other = finished(tmp_path / "other", dataset, 0.9, "recall@10")
    assert "recall@10" in message_of(lambda: publish(other, place))
