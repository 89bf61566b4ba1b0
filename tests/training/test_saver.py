"""Saving an epoch while the next one trains: what is copied, when it counts, and what is told."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.training.records import EpochRecord, EpochTime, SamplerStatistics, TrainingState
from adar_ray.training.run import Run
from adar_ray.training.saver import Saver
from adar_ray.training.trainer import resume, train
from tests import sealed
from tests.data.making import make_dataset
from tests.training.checkpoints import last_epoch, places

PART = {
    "model.weight": torch.arange(12.0).reshape(3, 4),
    "model.columns": torch.arange(12).reshape(3, 4).T,  # not contiguous
    "model.rows": torch.arange(20.0)[5:9],  # of another tensor
    "samplers.0.mean": torch.tensor(0.25),
    "samplers.0.is_drawn": torch.tensor([True, False, True]),
    "nothing": torch.empty(0, 8),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "über": torch.tensor([7], dtype=torch.uint8),
    "double": torch.tensor([1e300], dtype=torch.float64),
}


@pytest.fixture
def run(dataset: Dataset, tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", load_config(), dataset, workers=0)


def record(epoch: int) -> EpochRecord:
    seconds = EpochTime(train_seconds=1.0, valid_seconds=1.0, interactions_per_second=1.0)
    sampler = SamplerStatistics(hardness=0.5)
    return EpochRecord(epoch=epoch, loss=1.0, penalty=0.0, sampler=sampler, time=seconds, best_epoch=1)


def part_of(run: Run, epoch: int) -> dict[str, torch.Tensor]:
    folder = Path(run.folder.path, "checkpoints", f"{epoch:05d}")
    return safetensors.torch.load_file(folder / "00000-of-00001.safetensors")


def test_what_is_saved_is_what_was_there_when_saving_began(run: Run) -> None:
    saver = Saver(run, 0, 1)
    part, state = (
        {name: tensor.clone() for name, tensor in PART.items()},
        TrainingState(epoch=1, best_epoch=1),
    )
    saver.start(state, record(1), part)
    for tensor in part.values():
        tensor.zero_()
    state.epoch = 9
    assert saver.saved(waits=True) == record(1)
    assert saver.saved(waits=True) is None
    saved = part_of(run, 1)
    assert saved.keys() == PART.keys()
    for name, tensor in PART.items():
        assert saved[name].dtype == tensor.dtype
        assert torch.equal(saved[name], tensor)
    assert run.epochs() == [record(1)]
    assert run.newest_checkpoint().place == (1, 0)


def test_the_best_and_the_newest_checkpoints_are_kept_whatever_their_sizes(run: Run) -> None:
    saver = Saver(run, 0, 1)
    for epoch in (1, 2, 3, 4):
        state = TrainingState(epoch=epoch, best_epoch=1)
        saver.start(state, record(epoch), {"weight": torch.full((epoch,), 1.0 * epoch)})
        assert saver.saved(waits=True) == record(epoch)
    assert [part_of(run, epoch)["weight"].tolist() for epoch in (1, 3)] == [[1.0], [3.0, 3.0, 3.0]]
    assert places(Path(run.folder.path)) == [(1, 0), (3, 0), (4, 0)]
    for step in (10, 20, 30):
        saver.start(
            TrainingState(epoch=4, step=step, best_epoch=1), None, {"weight": torch.ones(1)}, [0.5, step]
        )
        assert saver.saved(waits=True) is None
    # The end of the last epoch stays too: a population's trials take over from there.
    assert places(Path(run.folder.path)) == [(1, 0), (4, 0), (4, 20), (4, 30)]
    assert run.newest_checkpoint().sums == [[0.5, 30]]
    assert not Path(run.folder.path, "checkpoints", "00002").exists()


def test_a_checkpoint_counts_only_with_that_of_its_best_epoch(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    saver, folder = Saver(run, 0, 1), Path(run.folder.path, "checkpoints")
    for epoch, best in ((1, 1), (2, 1), (3, 3)):
        saver.start(TrainingState(epoch=epoch, best_epoch=best), record(epoch), {"weight": torch.ones(1)})
        saver.saved(waits=True)
    (folder / "00001" / "00000-of-00001.safetensors").write_bytes(b"")
    assert run.newest_checkpoint().place == (3, 0)
    (folder / "00003" / "state.json").write_text("{")
    caplog.clear()
    with pytest.raises(AdarError, match=r"/00003/state.json: is damaged .*; there is no other checkpoint"):
        run.newest_checkpoint()
    assert not caplog.messages  # nothing takes their place


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(run: Run) -> None:
    saver, folder = Saver(run, 0, 1), Path(run.folder.path, "checkpoints")
    for epoch in (1, 2):
        saver.start(TrainingState(epoch=epoch, best_epoch=1), record(epoch), {"weight": torch.ones(1)})
        saver.saved(waits=True)
    shutil.rmtree(folder)
    with pytest.raises(
        AdarError, match=r"/checkpoints: holds no checkpoint, though metrics.jsonl has 2 epochs"
    ):
        run.newest_checkpoint()
    run.write_epochs([record(1)])  # as if the process had died before it saved the first checkpoint
    assert run.newest_checkpoint() is None


def test_a_checkpoint_is_copied_of_the_epoch_asked_for(run: Run, dataset: Dataset, tmp_path: Path) -> None:
    """Whatever other checkpoints are there: Ray Tune may have put those of later epochs beside it."""
    saver = Saver(run, 0, 1)
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 4)):
        saver.start(TrainingState(epoch=epoch, best_epoch=best), record(epoch), {"weight": torch.ones(epoch)})
        saver.saved(waits=True)
    other = Run.create(tmp_path / "other", load_config(), dataset, workers=0)
    run.copy_checkpoint(other.folder, 3)
    assert places(tmp_path / "other") == [(2, 0), (3, 0)]
    assert part_of(other, 3)["weight"].tolist() == [1.0, 1.0, 1.0]
    run.copy_checkpoint(other.folder, 2)
    assert places(tmp_path / "other") == [(2, 0)]
    with pytest.raises(AdarError, match=r"/00009/state.json: is missing"):
        run.copy_checkpoint(other.folder, 9)
    assert places(tmp_path / "other") == [(2, 0)]


# In training.

SMALL = ["model.embedding_dim=8", "train.batch_size=64", "train.epochs=3", "train.device=cpu", "adar.pool=64"]
SMALL += ["model.name=neumf", "neumf.dropout=0.5"]  # whose random numbers are torch's own


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("made"), users=90, items=60, most=25, length=6, stride=6)


@pytest.fixture(scope="module")
def whole(made: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(made, out, load_config(settings=SMALL), workers=0)
    return out


def figures(run: Path) -> list[dict[str, Any]]:
    lines = sealed.read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def same_end(run: Path, expected: Path) -> None:
    resume(run)
    assert figures(run) == figures(expected)
    weights = "model/weights.safetensors"
    assert (run / weights).read_bytes() == (expected / weights).read_bytes()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Parts are written once this is set: storage as slow as a test wants it."""
    gate, write_part = threading.Event(), Run.write_part

    def slow(self: Run, *arguments: Any) -> bytes:
        assert gate.wait(60)
        return write_part(self, *arguments)

    monkeypatch.setattr(Run, "write_part", slow)
    return gate


def test_an_epoch_trains_while_the_one_before_is_saved(
    made: Dataset, whole: Path, tmp_path: Path, gate: threading.Event
) -> None:
    happened: list[str] = []

    def on_step(epoch: int, step: int, steps: int) -> None:
        happened.append(f"step {epoch}.{step}")
        if (epoch, step) == (2, 3):
            assert not (tmp_path / "run" / "metrics.jsonl").exists()
            gate.set()

    def on_epoch(record: EpochRecord) -> None:
        happened.append(f"epoch {record.epoch}")
        # What is told has been saved, and is not yet replaced.
        assert last_epoch(tmp_path / "run") == len(figures(tmp_path / "run")) == record.epoch
        torch.rand(1)  # a callback may do as it likes

    config = load_config(settings=SMALL)
    train(made, tmp_path / "run", config, workers=0, on_epoch=on_epoch, on_step=on_step)
    assert happened.index("step 2.3") < happened.index("epoch 1") < happened.index("step 3.1")
    assert [event for event in happened if "epoch" in event] == ["epoch 1", "epoch 2", "epoch 3"]
    same_end(tmp_path / "run", whole)


def test_an_interrupted_run_finishes_saving(
    made: Dataset, whole: Path, tmp_path: Path, gate: threading.Event
) -> None:
    def on_step(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (2, 2):
            threading.Timer(0.2, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "run", load_config(settings=SMALL), workers=0, on_step=on_step)
    assert last_epoch(tmp_path / "run") == len(figures(tmp_path / "run")) == 1
    same_end(tmp_path / "run", whole)


def test_what_goes_wrong_in_the_thread_comes_out_of_training(
    made: Dataset, whole: Path, tmp_path: Path
) -> None:
    obstacle = tmp_path / "run" / "checkpoints" / "00002"

    def on_epoch(record: EpochRecord) -> None:
        obstacle.write_text("a file where a folder has to be")

    with pytest.raises(OSError, match="00002"):
        train(made, tmp_path / "run", load_config(settings=SMALL), workers=0, on_epoch=on_epoch)
    assert last_epoch(tmp_path / "run") == len(figures(tmp_path / "run")) == 1
    obstacle.unlink()
    same_end(tmp_path / "run", whole)
