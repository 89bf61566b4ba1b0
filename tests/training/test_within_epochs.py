"""Checkpoints within an epoch: a run goes on from the very step, and ends as if nothing had been.

Workers are processes that talk through gloo and run the loop that Ray Train's workers run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException

from adar_ray.config import CheckpointsConfig, ModelConfig, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError, TerminatedError, may_pass
from adar_ray.training.calls import Call, Calls
from adar_ray.training.data_source import local_data
from adar_ray.training.loop import fit
from adar_ray.training.run import Run
from adar_ray.training.trainer import new_run, resume, train
from adar_ray.training.worker import Worker
from tests import sealed
from tests.data.making import make_dataset
from tests.processes import run_in_processes
from tests.training.checkpoints import places

pytestmark = pytest.mark.slow

EPOCHS = 3
SMALL = ["model.embedding_dim=8", "train.batch_size=64", f"train.epochs={EPOCHS}", "train.device=cpu"]
SMALL += ["model.name=mf", "adar.pool=64", "loss.l2=0.001", "optimizer.lr=0.01", "train.metric=recall@20"]
SMALL += ["sampled_softmax.shared_negatives=64"]
KINDS = {
    "default": [f"model.name={ModelConfig().name}"],
    "mf": ["loss.name=bpr", "adar.gamma=0.5"],  # the running mean is part of the state
    "lightgcn": ["model.name=lightgcn", "sampler.name=mixgcf"],
    "simgcl": ["model.name=simgcl", "sampler.name=uniform"],  # which draws from torch's own generator
    "neumf": ["model.name=neumf", "neumf.dropout=0.5", "sampler.name=dns"],
    "twotower": ["model.name=twotower", "train.accumulate=2"],
    "srns": ["sampler.name=srns", "srns.memory=8"],  # whose memory has rows of users
    "softmax": ["loss.name=cross_entropy"],
    "sasrec": ["model.name=sasrec", "sasrec.dropout=0.2", "train.batch_size=8", "loss.name=sampled_softmax"],
    "bert4rec": ["model.name=bert4rec", "bert4rec.dropout=0.2", "train.batch_size=8"],
    "options": [
        "optimizer.schedule=linear",
        "optimizer.warmup=0.2",
        "optimizer.clip=0.01",
        "train.accumulate=3",
    ],
    "streamed": ["data.cache=never"],
    "sharded": ["model.tables=sharded"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    sizes = {"users": 90, "items": 60, "most": 25, "length": 6, "stride": 6}
    return make_dataset(tmp_path_factory.mktemp("made"), features=True, **sizes)


def settings(kind: str, *more: str) -> list[str]:
    return [*SMALL, *KINDS[kind], *more]


def figures(run: Path) -> list[dict[str, Any]]:
    lines = sealed.read_lines(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "time"} for line in lines]


def seconds(run: Path) -> list[float]:
    return [line["time"]["train_seconds"] for line in sealed.read_lines(run / "metrics.jsonl")]


def assert_same(run: Path, expected: Path) -> None:
    """The same bytes of weights, the same figures of every epoch."""
    assert figures(run) == figures(expected)
    weights = "model/weights.safetensors"
    assert (run / weights).read_bytes() == (expected / weights).read_bytes()


@pytest.fixture(scope="module")
def whole(made: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each kind that nothing interrupts, without a checkpoint within an epoch."""
    folder = tmp_path_factory.mktemp("whole")

    def of(kind: str) -> Path:
        if not (folder / kind).exists():
            train(made, folder / kind, load_config(settings=settings(kind)), workers=0)
        return folder / kind

    return of


class _CutOffError(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_within_an_epoch_as_if_it_had_never_stopped(made, whole, tmp_path, kind):
    run, config = tmp_path / "run", load_config(settings=settings(kind, "checkpoints.steps=2"))

    def cut_off(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) in cuts:
            cuts.remove((epoch, step))
            raise _CutOffError

    cuts = [(1, 2), (2, 3), (2, 6)]
    new_run(made, run, config, workers=0)
    for expected in ((0, 0), (1, 2), (1, 4)):
        with pytest.raises(_CutOffError):
            resume(run, on_step=cut_off)
        assert ([(0, 0), *places(run)])[-1] in {expected, (expected[0], expected[1] + 2)}
    resume(run)
    assert_same(run, whole(kind))
    assert all(second > 0 for second in seconds(run))


def test_steps_that_are_done_are_not_done_again(made, tmp_path):
    run, taken = tmp_path / "run", []

    def on_step(epoch: int, step: int, steps: int) -> None:
        taken.append((epoch, step))
        if (epoch, step) == (2, 5) and taken.count((2, 5)) == 1:
            raise _CutOffError

    with pytest.raises(_CutOffError):
        train(
            made, run, load_config(settings=settings("mf", "checkpoints.steps=2")), workers=0, on_step=on_step
        )
    steps = max(step for epoch, step in taken if epoch == 1)
    (saved,) = [place for place in places(run) if place[0] == 1 and place[1] in (2, 4)][-1:]
    resume(run, on_step=on_step)
    twice = [(2, step) for step in range(saved[1] + 1, 6)]
    assert sorted(taken) == sorted([(e, s) for e in (1, 2, 3) for s in range(1, steps + 1)] + twice)


@pytest.mark.parametrize("change", ["train.batch_size=32", "train.batch_size=128", "train.seed=1"])
def test_an_epoch_begins_anew_where_its_steps_would_be_others(made, tmp_path, caplog, change):
    def cut_off_after(place: tuple[int, int]) -> Callable[[int, int, int], None]:
        def cut_off(epoch: int, step: int, steps: int) -> None:
            if (epoch, step) == place:
                raise _CutOffError

        return cut_off

    config = load_config(settings=settings("mf", "checkpoints.steps=2"))
    for name, place in (("within", (2, 5)), ("at the end", (2, 1))):
        with pytest.raises(_CutOffError):
            train(made, tmp_path / name, config, workers=0, on_step=cut_off_after(place))
    assert places(tmp_path / "within")[-1][0] == 1
    assert places(tmp_path / "within")[-1][1] > 0
    assert places(tmp_path / "at the end")[-1] == (1, 0)
    for name in ("within", "at the end"):
        resume(tmp_path / name, settings=[change])
    assert_same(tmp_path / "within", tmp_path / "at the end")
    assert [message for message in caplog.messages if "begins anew" in message] == [
        f"{tmp_path / 'within'}: the epoch under way begins anew, with the new batch size or seed"
    ]


def test_a_run_that_is_told_to_stop_saves_and_goes_on(made, whole, tmp_path):
    run, stops = (
        new_run(made, tmp_path / "run", load_config(settings=settings("mf")), workers=0),
        [(1, 1), (2, 4)],
    )
    at = [(0, 0)]

    def on_step(epoch: int, step: int, steps: int) -> None:
        at[0] = epoch, step

    for epoch, step in stops:
        data, message = (
            local_data(run.config, made, Worker()),
            f"terminated; saved at epoch {epoch}, step {step}$",
        )
        with pytest.raises(TerminatedError, match=message) as caught:
            fit(run, data, on_step=on_step, should_stop=lambda here=(epoch, step): at[0] == here)
        assert may_pass(caught.value)
        assert places(tmp_path / "run")[-1] == (epoch - 1, step)
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole("mf"))


# Several workers.


def work(rank: int, out: str, workers: int, meeting: str, stop: str | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{out}/{meeting}", rank=rank, world_size=workers)
    worker, run = Worker(rank, workers), Run.open(out)
    started = time.monotonic()
    steps = []

    def should_stop() -> bool:
        return stop == "told" and rank == workers - 1 and time.monotonic() - started > 0.5

    def on_step(epoch: int, step: int, steps_of_epoch: int) -> None:
        steps.append(step)
        if stop == "killed" and (epoch, step) == (2, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    # Another worker than the first should stop; the first is the one that dies.
    with contextlib.suppress(TerminatedError):
        fit(
            run,
            local_data(run.config, run.dataset(), worker),
            worker,
            on_step=on_step,
            should_stop=should_stop,
        )
    dist.destroy_process_group()


def in_processes(out: Path, workers: int, meeting: str, stop: str | None = None) -> None:
    run_in_processes(work, workers, str(out), workers, meeting, stop)


@pytest.mark.parametrize(
    ("workers", "kind"),
    [(3, "mf"), (3, "streamed"), (2, "sasrec"), (2, "lightgcn"), (3, "sharded")],
)
def test_workers_go_on_from_within_an_epoch_bit_by_bit(made, whole, tmp_path, workers, kind):
    config = load_config(settings=settings(kind, "checkpoints.steps=2"))
    runs = {name: tmp_path / name for name in ("whole", "killed")}
    for run in runs.values():
        new_run(made, run, config, workers=0)
    in_processes(runs["whole"], workers, "1")
    with pytest.raises(ProcessExitedException):
        in_processes(runs["killed"], workers, "1", "killed")
    assert places(runs["killed"])[-1][0] == 1
    in_processes(runs["killed"], workers, "2")
    for run in runs.values():
        resume(run)  # which has nothing left to train
    assert_same(runs["killed"], runs["whole"])


def test_other_numbers_of_workers_go_on_from_within_an_epoch(made, whole, tmp_path):
    run = tmp_path / "run"
    new_run(made, run, load_config(settings=settings("mf", "checkpoints.steps=2")), workers=0)
    with pytest.raises(ProcessExitedException):
        in_processes(run, 2, "1", "killed")
    assert places(run)[-1][1] in (2, 4)
    in_processes(run, 3, "2")
    resume(run)
    for ours, expected in zip(figures(run), figures(whole("mf")), strict=True):
        assert ours["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert ours["sampler"]["hardness"] == pytest.approx(expected["sampler"]["hardness"], rel=1e-5)
        assert ours["valid"] == pytest.approx(expected["valid"], rel=1e-5)


def test_all_workers_stop_at_the_same_step_if_one_should(made, whole, tmp_path):
    run = tmp_path / "run"
    config = load_config(settings=settings("mf", "train.epochs=50000", "train.patience=100000"))
    new_run(made, run, config, workers=0)
    in_processes(run, 2, "1", "told")
    before = places(run)[-1]
    assert (run / "checkpoints" / f"{before[0]:05d}-{before[1]:08d}" / "state.json").exists() or before[
        1
    ] == 0
    in_processes(run, 2, "2", "told")
    assert places(run)[-1] > before


# When to save.


def test_minutes_count_from_the_last_checkpoint() -> None:
    calls = Calls(CheckpointsConfig(minutes=0.001), Worker(), lambda: False)
    assert calls.after(1) == Call.GO_ON
    time.sleep(0.07)
    assert calls.after(2) == Call.SAVE
    calls.saved()
    assert calls.after(3) == Call.GO_ON


def test_steps_count_from_the_start_of_the_epoch() -> None:
    calls = Calls(CheckpointsConfig(minutes=0, steps=3), Worker(), lambda: False)
    assert [calls.after(step) for step in range(1, 8)] == [0, 0, 1, 0, 0, 1, 0]


# A loss that is not a number.

BREAKING = """
import torch
from torch.nn.functional import softplus

calls = 0


def build(dataset, config):
    def loss(positive_B, negative_BK, mask_BK, log_q_BK):
        global calls
        calls += 1
        loss_B = (softplus(negative_BK - positive_B[:, None]) * mask_BK).mean(1)
        return loss_B / (0 if calls in breaks else 1)

    return loss


breaks = set()
"""


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "breaking_loss.py").write_text(BREAKING)
    monkeypatch.syspath_prepend(tmp_path)
    return [*SMALL, "loss.name=breaking_loss:build", "sampler.name=uniform", "checkpoints.steps=2"]


def test_training_stops_at_the_step_whose_loss_is_no_number(made, tmp_path, breaking, monkeypatch):
    import breaking_loss

    run = tmp_path / "run"
    monkeypatch.setattr(breaking_loss, "calls", 0)
    monkeypatch.setattr(breaking_loss, "breaks", {4})
    with pytest.raises(AdarError) as caught:
        train(made, run, load_config(settings=breaking), workers=0)
    file = run / "bad_batch-00000.safetensors"
    assert str(caught.value).startswith(
        f"epoch 1, step 4: the loss is inf on worker 0, whose batch is in {file}; "
    )
    batch = safetensors.torch.load_file(file)
    assert len(batch["user"]) == len(batch["item"]) > 0
    assert places(run) == [(0, 2)]
    resume(run, settings=["optimizer.lr=0.001"], trust=True)
    monkeypatch.setattr(breaking_loss, "breaks", set())
    reference = train(
        made, tmp_path / "reference", load_config(settings=[*breaking, "optimizer.lr=0.001"]), workers=0
    )
    assert len(figures(run)) == len(reference.epochs())


def test_a_step_whose_loss_is_no_number_may_be_skipped_and_counts(made, tmp_path, breaking, monkeypatch):
    import breaking_loss

    monkeypatch.setattr(breaking_loss, "calls", 0)
    monkeypatch.setattr(breaking_loss, "breaks", {3, 4})
    run = train(made, tmp_path / "run", load_config(settings=[*breaking, "train.on_nan=skip"]), workers=0)
    assert [epoch.skipped for epoch in run.epochs()] == [2, None, None]
    assert all(epoch.loss < 1 for epoch in run.epochs())


def test_an_epoch_of_nothing_but_skipped_steps_stops(made, tmp_path, breaking, monkeypatch):
    import breaking_loss

    monkeypatch.setattr(breaking_loss, "breaks", set(range(10**6)))
    with pytest.raises(
        AdarError, match="epoch 1: the loss of every step is not a number; training cannot continue"
    ):
        train(made, tmp_path / "run", load_config(settings=[*breaking, "train.on_nan=skip"]), workers=0)
