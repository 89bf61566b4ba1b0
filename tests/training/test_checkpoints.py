"""Checkpoints: whatever number of workers wrote them, wherever training was cut off, whatever is damaged.

Workers are processes that talk through gloo and run the loop that Ray Train's workers run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.storage import Folder
from adar_ray.training.data_source import local_data
from adar_ray.training.loop import fit
from adar_ray.training.run import Run
from adar_ray.training.trainer import resume, revised, train
from adar_ray.training.worker import Worker
from tests import sealed
from tests.data.making import make_dataset
from tests.processes import run_in_processes
from tests.training.checkpoints import last_epoch, places, state

pytestmark = pytest.mark.slow

EPOCHS = 4
SMALL = ["model.embedding_dim=8", "train.batch_size=128", f"train.epochs={EPOCHS}", "train.device=cpu"]
SMALL += ["model.name=mf", "adar.pool=64", "loss.l2=0.001", "optimizer.lr=0.01", "train.metric=recall@20"]
SMALL += ["sampled_softmax.shared_negatives=64"]
KINDS = {
    "mf": ["adar.gamma=0.5"],  # the running mean is part of the state
    "lightgcn": ["model.name=lightgcn", "sampler.name=uniform"],
    "ngcf": ["model.name=ngcf", "ngcf.dropout=0", "sampler.name=uniform"],
    "neumf": ["model.name=neumf", "neumf.dropout=0", "sampler.name=uniform"],
    "twotower": ["model.name=twotower", "sampler.name=uniform"],
    "srns": ["sampler.name=srns", "srns.memory=8"],  # whose memory has rows of users
    "softmax": ["loss.name=cross_entropy"],
    "sasrec": ["model.name=sasrec", "sasrec.dropout=0", "loss.name=sampled_softmax"],
    "sharded mf": ["model.tables=sharded", "adar.gamma=0.5"],
    "sharded uniform": ["model.tables=sharded", "sampler.name=uniform"],
    "sharded dns": ["model.tables=sharded", "sampler.name=dns", "model.cosine=true"],
    "sharded popularity": ["model.tables=sharded", "sampler.name=popularity", "loss.name=bce"],
    "sharded twotower": ["model.tables=sharded", "model.name=twotower", "loss.name=bpr"],
    "sharded sasrec": ["model.tables=sharded", "model.name=sasrec", "sasrec.dropout=0"],
    "sharded neumf": ["model.tables=sharded", "model.name=neumf", "neumf.dropout=0", "sampler.name=uniform"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    sizes = {"users": 90, "items": 60, "most": 25, "length": 6, "stride": 6}
    return make_dataset(tmp_path_factory.mktemp("made"), features=True, **sizes)


class _CutOffError(Exception):
    pass


def cut_off(epoch: int | str) -> Callable[..., None]:
    def after(record: Any) -> None:
        if record.epoch == epoch:
            raise _CutOffError

    return after


def begin(made: Dataset, out: Path, kind: str, until: int) -> None:
    """Trains in this process, and is cut off after an epoch."""
    with pytest.raises(_CutOffError):
        train(made, out, load_config(settings=[*SMALL, *KINDS[kind]]), workers=0, on_epoch=cut_off(until))


def work(rank: int, out: str, workers: int, until: int | str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{out}/meeting-{until}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=workers)
    worker, run = Worker(rank, workers), Run.open(out)
    with contextlib.suppress(_CutOffError):
        fit(run, local_data(run.config, run.dataset(), worker), worker, cut_off(until))
    dist.destroy_process_group()


def continue_in_processes(out: Path, workers: int, until: int, how: Callable[..., None] = work) -> None:
    run_in_processes(how, workers, str(out), workers, until)


def figures(run: Path) -> list[dict[str, Any]]:
    lines = sealed.read_lines(run / "metrics.jsonl")
    return [{"loss": line["loss"], "penalty": line["penalty"], **line["valid"]} for line in lines]


def parts(run: Path) -> dict[str, list[str]]:
    checkpoints = run / "checkpoints"
    return {p.name: sorted(f.name for f in p.iterdir()) for p in checkpoints.iterdir() if p.is_dir()}


@pytest.fixture(scope="module")
def whole(made: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each kind that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")

    def of(kind: str) -> Path:
        if not (folder / kind).exists():
            train(made, folder / kind, load_config(settings=[*SMALL, *KINDS[kind]]), workers=0)
        return folder / kind

    return of


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_any_number_of_workers_as_if_it_had_never_stopped(made, whole, tmp_path, kind):
    """In this process, in two, in three, and at the end in this one: equal but for rounding."""
    run = tmp_path / "run"
    begin(made, run, kind, until=1)
    continue_in_processes(run, workers=2, until=2)
    two = ["00000-of-00002.safetensors", "00001-of-00002.safetensors", "state.json"]
    assert parts(run)["00002"] == two
    continue_in_processes(run, workers=3, until=3)
    resume(run)
    for ours, expected in zip(figures(run), figures(whole(kind)), strict=True):
        assert ours == pytest.approx(expected, rel=2e-5, abs=1e-9)
    ours, expected = (
        safetensors.torch.load_file(path / "model" / "weights.safetensors") for path in (run, whole(kind))
    )
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_workers_rank_by_popularity_together(made, whole, tmp_path):
    config = load_config(settings=[*SMALL, *KINDS["mf"]])
    Run.create(tmp_path / "run", config, made, workers=3)
    continue_in_processes(tmp_path / "run", workers=3, until=1)
    alone = sealed.read(whole("mf") / "result.json")["popularity"]
    assert state(tmp_path / "run", 1)["popularity"] == alone


def test_tables_may_be_shared_out_and_brought_together_on_the_way(made, whole, tmp_path):
    run = tmp_path / "run"
    begin(made, run, "mf", until=1)
    for tables, workers, until in (("replicated", 2, 2), ("sharded", 3, 3), ("replicated", 2, 4)):
        revised(Run.open(run), [f"model.tables={tables}"], workers).write_config()
        continue_in_processes(run, workers, until)
        held = {
            len(safetensors.torch.load_file(part)["model.item.weight"])
            for part in (run / "checkpoints" / f"{until:05d}").glob("*.safetensors")
            if "model.item.weight" in safetensors.torch.load_file(part)
        }
        assert held == ({20} if tables == "sharded" else {60})
    resume(run, workers=0)
    for ours, expected in zip(figures(run), figures(whole("mf")), strict=True):
        assert ours == pytest.approx(expected, rel=2e-5, abs=1e-9)


def test_only_the_newest_and_the_best_checkpoints_stay(whole):
    run = whole("mf")
    kept = {EPOCHS, EPOCHS - 1} | {state(run, epoch)["best_epoch"] for epoch in (EPOCHS, EPOCHS - 1)}
    assert parts(run) == {f"{epoch:05d}": ["00000-of-00001.safetensors", "state.json"] for epoch in kept}
    assert [len(state(run, epoch)["files"]) for epoch in kept] == [1] * len(kept)


def same_end(run: Path, expected: Path) -> None:
    resume(run)
    assert figures(run) == figures(expected)
    weights = "model/weights.safetensors"
    assert (run / weights).read_bytes() == (expected / weights).read_bytes()


@pytest.mark.parametrize("write", ["the part", "the metrics", "that it counts"])
def test_a_run_that_dies_before_it_writes_goes_on_from_the_checkpoint_before(
    made, whole, tmp_path, monkeypatch, write
):
    begin(made, tmp_path / "run", "mf", until=2)
    writes, owned = iter(["the metrics so far", "the part", "the metrics", "that it counts"]), Run._owned

    def dying(run: Run) -> Folder:
        if next(writes) == write:
            raise _CutOffError
        return owned(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_owned", dying)
        with pytest.raises(_CutOffError):
            resume(tmp_path / "run")
    assert last_epoch(tmp_path / "run") == 2
    same_end(tmp_path / "run", whole("mf"))


def killed(rank: int, out: str, workers: int, writes: int) -> None:
    """Goes on training. The first worker is killed within a write, after so many others."""
    left, write_bytes = iter(range(writes)), Folder.write_bytes

    def write(folder: Folder, name: str, data: bytes) -> None:
        if next(left, None) is None:
            folder.create(name.rpartition("/")[0])
            Path(folder.join(name)).with_name(".cut-off.partial").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_bytes(folder, name, data)

    if rank == 0:
        Folder.write_bytes = write
    work(rank, out, workers, until=f"killed-{writes}")


@pytest.mark.parametrize(("workers", "kills", "last"), [(1, [3, 2, 5, 4], 3), (2, [3, 5], 2)])
def test_a_run_that_is_killed_in_a_write_goes_on_as_if_nothing_had_been(
    made, whole, tmp_path, workers, kills, last
):
    """An epoch is three writes, after one at the start: the part, the metrics, that it counts."""
    run = tmp_path / "run"
    begin(made, run, "mf", until=1)
    for writes in kills:
        with pytest.raises(ProcessExitedException):
            continue_in_processes(run, workers, writes, killed)
    assert last_epoch(run) == last
    resume(run)
    for ours, expected in zip(figures(run), figures(whole("mf")), strict=True):
        assert ours == pytest.approx(expected, rel=2e-5, abs=1e-9)


def test_a_part_that_another_worker_cannot_write_stops_all(made, whole, tmp_path):
    run = tmp_path / "run"
    begin(made, run, "mf", until=1)
    obstacle = run / "checkpoints" / "00002" / "00001-of-00002.safetensors"
    (obstacle / "a folder where a file has to be").mkdir(parents=True)
    with pytest.raises(ProcessRaisedException, match=r"IsADirectoryError.*00001-of-00002"):
        continue_in_processes(run, workers=2, until=EPOCHS)
    assert last_epoch(run) == 1
    assert len(figures(run)) == 1
    shutil.rmtree(obstacle)
    same_end(run, whole("mf"))


def test_parts_that_were_never_committed_are_ignored(made, whole, tmp_path):
    begin(made, tmp_path / "run", "mf", until=2)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "00003").mkdir()
    (checkpoints / "00003" / "00001-of-00002.safetensors").write_bytes(b"half of it")
    (checkpoints / "00003" / "00000-of-00001.safetensors").write_bytes(b"")
    same_end(tmp_path / "run", whole("mf"))


# What is damaged


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def in_two_parts(made: Dataset, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    begin(made, run, "mf", until=1)
    continue_in_processes(run, workers=2, until=2)
    return run


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut off": lambda part: part.write_bytes(part.read_bytes()[: part.stat().st_size // 2]),
    "empty": lambda part: part.write_bytes(b""),
    "zeros": lambda part: part.write_bytes(b"\0" * 99),
    "one bit": lambda part: part.write_bytes(
        part.read_bytes()[:-9] + bytes([part.read_bytes()[-9] ^ 1]) + part.read_bytes()[-8:]
    ),
    "missing": lambda part: part.unlink(),
    "of something else": lambda part: safetensors.torch.save_file({"mine": torch.zeros(3)}, part),
    "of other users": lambda part: safetensors.torch.save_file(
        {name: tensor[:-1] for name, tensor in safetensors.torch.load_file(part).items() if tensor.dim()},
        part,
    ),
}


@pytest.mark.parametrize("number", [0, 1])
def test_the_checkpoint_before_a_damaged_one_takes_its_place(
    in_two_parts: Path, whole, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    for name, damage in DAMAGES.items():
        run = tmp_path / name
        shutil.copytree(in_two_parts, run)
        part = run / "checkpoints" / "00002" / f"0000{number}-of-00002.safetensors"
        damage(part)
        same_end(run, whole("mf"))
        assert caplog.messages[-1].startswith(f"{part}: cannot be read (")
        assert caplog.messages[-1].endswith("; the checkpoint before it takes its place")
        assert places(run)[-1] == (EPOCHS, 0)


def test_with_all_checkpoints_damaged_the_newest_is_named(in_two_parts: Path) -> None:
    before = figures(in_two_parts)
    for part in (in_two_parts / "checkpoints").glob("*/00000-of-*.safetensors"):
        part.write_bytes(b"")
    message = refusal(lambda: resume(in_two_parts))
    newest = in_two_parts / "checkpoints" / "00002" / "00000-of-00002.safetensors"
    assert message.startswith(f"{newest}: cannot be read (wrong checksum)")
    assert message.endswith("; there is no other checkpoint: start again with --replace")
    assert figures(in_two_parts) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {**state, "epoch": "many"},
        lambda state: {**state, "epoch": 1},
        lambda state: {**state, "files": []},
        lambda state: {**state, "best_epoch": 7},
        lambda state: {**state, "files": ["a", "b", "c"]},
    ],
)
def test_a_damaged_record_of_a_checkpoint(in_two_parts: Path, whole, change, caplog) -> None:
    path = in_two_parts / "checkpoints" / "00002" / "state.json"
    sealed.write(path, change(sealed.read(path)))
    same_end(in_two_parts, whole("mf"))
    assert caplog.messages[0].startswith(f"{path.parent}/")


def test_a_folder_in_the_place_of_a_checkpoints_record(in_two_parts: Path, caplog) -> None:
    path = in_two_parts / "checkpoints" / "00002" / "state.json"
    path.unlink()
    path.mkdir()
    assert Run.open(in_two_parts).newest_checkpoint().place == (1, 0)
    assert caplog.messages[0].startswith(f"{path}: is damaged (it is not a file)")


def test_a_checkpoint_of_another_model_is_refused(made, tmp_path):
    begin(made, tmp_path / "run", "mf", until=1)
    begin(made, tmp_path / "other", "neumf", until=1)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    part = tmp_path / "run" / "checkpoints" / "00001" / "00000-of-00001.safetensors"
    assert refusal(lambda: resume(tmp_path / "run")).startswith(
        f"{part}: cannot be read (it holds other tensors"
    )


def test_metrics_that_end_before_the_checkpoint_are_refused(made, tmp_path):
    begin(made, tmp_path / "run", "mf", until=2)
    run = Run.open(tmp_path / "run")
    run.write_epochs(run.epochs()[:1])
    assert "metrics.jsonl ends at epoch 1, the checkpoint is of epoch 2" in refusal(
        lambda: resume(tmp_path / "run")
    )


def test_nothing_but_checkpoints_is_removed(made, tmp_path):
    begin(made, tmp_path / "run", "mf", until=1)
    (tmp_path / "run" / "checkpoints" / "mine").mkdir()
    (tmp_path / "run" / "checkpoints" / "mine" / "notes.txt").write_text("mine")
    resume(tmp_path / "run")
    assert "mine" in os.listdir(tmp_path / "run" / "checkpoints")
