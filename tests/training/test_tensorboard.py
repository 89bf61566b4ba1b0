"""TensorBoard events, read back with TensorBoard's own reader."""

import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adar_ray.training.records import EpochRecord, EpochTime, SamplerStatistics
from adar_ray.training.tensorboard import EventWriter


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        loss=1 / epoch,
        penalty=0,
        sampler=SamplerStatistics(hardness=0.5, timesteps=[1.0]),
        valid={"ndcg@20": epoch / 8, "own:spread@5": 1.0},
        time=EpochTime(train_seconds=1, valid_seconds=1, interactions_per_second=1),
        best_epoch=epoch,
    )


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_figures_appear_as_they_are_written_and_once_after_a_resumption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "tensorboard"
    writer = EventWriter(folder, [])
    writer.write(record(1))
    assert curve(folder, "loss") == [(1, 1.0)]
    writer.write(record(2))
    writer.close()
    writer = EventWriter(folder, [record(1)])
    writer.write(record(2))
    writer.close()
    assert curve(folder, "loss") == [(1, 1.0), (2, 0.5)]
    # TensorFlow allows neither @ nor : in a name.
    assert curve(folder, "valid/own_spread_5") == [(1, 1.0), (2, 1.0)]
    assert curve(folder, "valid/ndcg_20") == [(1, 0.125), (2, 0.25)]
    assert [record for record in caplog.records if record.name.startswith("tensorboardX")] == []
