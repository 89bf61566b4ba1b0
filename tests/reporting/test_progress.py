"""The lines of a training, on a terminal of 80 columns."""

from __future__ import annotations

import pytest

from adar_ray.reporting.progress import ROWS_BETWEEN_HEADS, TrainingProgress, read_training
from adar_ray.training.records import EpochRecord, EpochTime, SamplerStatistics


def record(epoch: int, loss: float, valid: dict[str, float] | None, timestep: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        loss=loss,
        penalty=0,
        sampler=SamplerStatistics(hardness=0.25, timestep=timestep),
        valid=valid,
        time=EpochTime(train_seconds=1, valid_seconds=0, interactions_per_second=12_345_678.9),
        best_epoch=1,
    )


def test_epochs_are_rows_under_a_head_and_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrainingProgress(1_000, "precision@100")
    for epoch in range(1, ROWS_BETWEEN_HEADS + 2):
        progress.on_epoch(record(epoch, 1234.5, {"precision@100": 0.125, "ndcg@20": 0.5}, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 + ROWS_BETWEEN_HEADS + 1 + 1
    assert {len(line) for line in lines} <= set(range(81))
    names = ["epoch", "loss", "precision@100", "hardness", "timestep", "interactions/s"]
    assert lines[0].split() == lines[1 + ROWS_BETWEEN_HEADS].split() == names
    assert lines[3].split() == ["3/1000", "1234.5000", "0.1250", "0.250", "0.50", "12,345,679"]
    ends = [lines[0].index(name) + len(name) for name in names]
    assert [lines[3][end - 1 : end + 2].strip() for end in ends] == ["0", "0", "0", "0", "0", "9"]


def test_what_is_not_known_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingProgress(20, "ndcg@20").on_epoch(record(1, 0.5, None, None))
    head, row = capsys.readouterr().err.splitlines()
    assert head.split() == ["epoch", "loss", "hardness", "interactions/s"]
    assert row.split() == ["1/20", "0.5000", "0.250", "12,345,679"]


def test_the_lines_of_a_training_are_read_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adar_ray.reporting.progress.SECONDS_BETWEEN_STEPS", 0)
    progress = TrainingProgress(100, "ndcg@20")
    log = "training in this process\n"
    assert read_training(log) == {}
    progress.on_step(1, 40, 2_000)
    log += capsys.readouterr().err
    assert read_training(log) == {"epoch": "1 of 100, step 40 of 2,000"}
    assert read_training("epoch  loss\n1/10  0.5\n") == {"epoch": "1 of 10"}  # by a callback
    for epoch in range(1, 3):
        progress.on_epoch(record(epoch, 0.5, {"ndcg@20": epoch / 8}, 0.5))
    log += capsys.readouterr().err
    assert read_training(log) == {"epoch": "2 of 100", "metric": "ndcg@20 0.2500"}
    progress.on_step(3, 2_000, 2_000)
    log += capsys.readouterr().err + "a line of something else: 3/100 1 2 3 4 5\n"
    assert read_training(log) == {"epoch": "3 of 100, step 2,000 of 2,000", "metric": "ndcg@20 0.2500"}
    TrainingProgress(20, "ndcg@20").on_epoch(record(1, 0.5, None, None))
    assert read_training(capsys.readouterr().err) == {"epoch": "1 of 20"}
