"""Callbacks: what they are told, what their errors do, and that they change nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adar_ray import resume, train
from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.training.callbacks import Callbacks
from adar_ray.training.records import RunResult
from tests.training.test_train import metrics, stop_after, weights

MODULE = """
import time

import ray
import requests

MADE = []


class Watch:
    def __init__(self, run):
        self.before = [record.epoch for record in run.epochs()]
        self.told = []
        MADE.append(self)

    def on_step(self, epoch, step, steps, loss):
        self.told.append(("step", epoch, step, steps, loss.item()))

    def on_epoch(self, record):
        self.told.append(("epoch", record))

    def on_end(self, result):
        self.told.append(("end", result))


class Marks:
    def __init__(self, run):
        self.run = run

    def on_epoch(self, record):
        self.run.folder.write_bytes(f"mark-{record.epoch}", b"")


class Scrapes:
    def __init__(self, run):
        self.run = run

    def on_end(self, result):
        node = ray.nodes()[0]
        page = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        last = f"{self.run.epochs()[-1].loss!r}"
        for _ in range(120):  # Ray collects them every 10 seconds
            text = requests.get(page, timeout=10).text
            if last in text:
                break
            time.sleep(0.5)
        self.run.folder.write_bytes("metrics.txt", text.encode())
        self.run.folder.write_bytes("mark-end", repr(result).encode())


def fails(run):
    raise ValueError("no such thing")


class Fails:
    def __init__(self, run):
        pass

    def on_epoch(self, record):
        if record.epoch == 2:
            raise OSError("the other side does not answer")

    def on_end(self, result):
        raise ValueError("nor at the end")


class EndFails:
    def __init__(self, run):
        pass

    def on_end(self, result):
        raise ValueError("once")


class AlsoFails(EndFails):
    pass


class Misspelled:
    def __init__(self, run):
        pass

    def on_epochs(self, record):
        pass


def forgets_to_return(run):
    Watch(run)
"""
QUICK = [
    *("model.name=mf", "model.embedding_dim=8", "sampler.name=uniform", "train.epochs=3"),
    *("train.batch_size=1024", "train.device=cpu"),
]


def quick(*callbacks: str) -> Config:
    return load_config(settings=[*QUICK, f"train.callbacks=[{', '.join(callbacks)}]"])


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_callbacks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_callbacks", None)


def told() -> list[list[tuple]]:
    return [made.told for made in sys.modules["my_callbacks"].MADE]


def test_a_callback_is_told_of_every_step_and_epoch_and_of_the_end(dataset: Dataset, tmp_path: Path) -> None:
    quiet = train(dataset, tmp_path / "quiet", quick(), workers=0)
    ends: list[RunResult] = []
    run = train(dataset, tmp_path / "run", quick("my_callbacks:Watch"), workers=0, on_end=ends.append)
    assert metrics(run) == metrics(quiet)
    assert weights(run) == weights(quiet)
    (all_told,) = told()
    steps = -(-dataset.rows("train") // 1024)
    taken = [one[1:4] for one in all_told if one[0] == "step"]
    assert taken == [(epoch, step, steps) for epoch in (1, 2, 3) for step in range(1, steps + 1)]
    assert [record for kind, record, *_ in all_told if kind == "epoch"] == run.epochs()
    assert all_told[-1] == ("end", run.result())
    assert ends == [run.result()]
    for record in run.epochs():
        losses = [one[4] for one in all_told if one[0] == "step" and one[1] == record.epoch]
        # All steps have about equally many rows, and a step's loss has the penalty in it.
        assert sum(losses) / steps == pytest.approx(record.loss + record.penalty, rel=0.01)


def test_a_run_that_goes_on_makes_its_callbacks_again(dataset: Dataset, tmp_path: Path) -> None:
    config = quick("my_callbacks:Watch")
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", config, workers=0, on_epoch=stop_after(2))
    run = resume(tmp_path / "run", trust=True)
    first, second = sys.modules["my_callbacks"].MADE
    assert (first.before, second.before) == ([], [1, 2])
    assert first.told[-1] == ("end", None)
    assert second.told[-1] == ("end", run.result())
    epochs = [one[1] for made in told() for one in made if one[0] == "epoch"]
    assert epochs == run.epochs()


def test_an_error_of_a_callback_ends_the_run_with_a_line_that_names_it(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with pytest.raises(AdarError) as caught:
        train(dataset, out, quick("my_callbacks:Watch", "my_callbacks:Fails"), workers=0)
    assert str(caught.value) == (
        "train.callbacks my_callbacks:Fails: on_epoch: OSError: the other side does not answer; once that is "
        f"mended, go on with `adar-ray train --resume {out}`, or without it by --set 'train.callbacks=[]'"
    )
    assert told()[0][-1] == ("end", None)
    assert "my_callbacks:Fails: on_end: ValueError: nor at the end" in caplog.text
    run = resume(out, trust=True, settings=["train.callbacks=[]"])
    assert run.result().epochs == 3
    whole = train(dataset, tmp_path / "whole", quick(), workers=0)
    assert weights(run) == weights(whole)


def test_an_error_at_the_end_keeps_no_other_callback_from_it(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = quick("my_callbacks:EndFails", "my_callbacks:Watch", "my_callbacks:AlsoFails")
    with pytest.raises(AdarError, match="my_callbacks:EndFails: on_end: ValueError: once"):
        train(dataset, tmp_path / "run", config, workers=0)
    what, result = told()[0][-1]
    assert (what, result.epochs) == ("end", 3)
    assert "my_callbacks:AlsoFails: on_end: ValueError: once" in caplog.text


def test_a_callback_that_cannot_be_made_tells_those_before_it(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(AdarError, match=r"^train.callbacks my_callbacks:fails: ValueError: no such thing;"):
        train(dataset, tmp_path / "run", quick("my_callbacks:Watch", "my_callbacks:fails"), workers=0)
    assert told() == [[("end", None)]]


@pytest.mark.parametrize(("name", "kind"), [("Misspelled", "Misspelled"), ("forgets_to_return", "NoneType")])
def test_a_callback_without_any_method_is_refused(
    dataset: Dataset, tmp_path: Path, name: str, kind: str
) -> None:
    problem = f"returns a {kind}, which has none of on_step, on_epoch, on_end; once that is mended"
    with pytest.raises(AdarError, match=rf"^train.callbacks my_callbacks:{name}: {problem}"):
        train(dataset, tmp_path / "run", quick(f"my_callbacks:{name}"), workers=0)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ("nowhere:Watch", r"^train.callbacks nowhere:Watch: cannot be imported"),
        ("my_callbacks:Nothing", r"^train.callbacks my_callbacks:Nothing: cannot be imported"),
        ("mlfow", "there is no callback 'mlfow'; did you mean mlflow"),
        ("a:b, a:b", "a:b is there twice"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, callbacks: str, message: str
) -> None:
    with pytest.raises(AdarError, match=message):
        train(dataset, tmp_path / "run", quick(callbacks), workers=0)
    assert not (tmp_path / "run").exists()


def test_only_worker_0_has_callbacks(dataset: Dataset, tmp_path: Path) -> None:
    run = train(dataset, tmp_path / "run", quick(), workers=0)
    watched = dataclasses.replace(run, config=quick("my_callbacks:Watch"))
    with Callbacks(watched, rank=1) as callbacks:
        assert callbacks.on_step == callbacks.on_epoch == []
    with Callbacks(watched) as callbacks:
        assert len(callbacks.on_step) == len(callbacks.on_epoch) == 1


def test_worker_0_on_ray_calls_back_and_its_node_serves_the_figures(
    ray_cluster: None, dataset: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = train(dataset, out, quick("my_callbacks:Marks", "my_callbacks:Scrapes"), workers=1)
    assert sorted(path.name for path in out.glob("mark-*")) == ["mark-1", "mark-2", "mark-3", "mark-end"]
    assert (out / "mark-end").read_text() == repr(run.result())
    served = {
        (sample.name, sample.labels.get("metric")): sample.value
        for family in text_string_to_metric_families((out / "metrics.txt").read_text())
        for sample in family.samples
        if sample.labels.get("run") == run.folder.address
    }
    last = run.epochs()[-1]
    assert served == {
        ("ray_adar_epoch", None): 3,
        ("ray_adar_loss", None): last.loss,
        ("ray_adar_interactions_per_second", None): last.time.interactions_per_second,
        **{("ray_adar_valid", name): value for name, value in last.valid.items()},
    }
