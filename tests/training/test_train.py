"""Runs: that they repeat, resume, keep the best and learn, in this process and on Ray Train workers."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from ray.util import placement_group_table

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.documents import to_lines
from adar_ray.errors import AdarError, TerminatedError
from adar_ray.inference.evaluate import evaluate
from adar_ray.reporting.tables import side_by_side
from adar_ray.storage import Folder
from adar_ray.training.records import EpochRecord
from adar_ray.training.run import Run
from adar_ray.training.trainer import new_run, note_on_split, resume, train
from tests import sealed
from tests.training.checkpoints import last_epoch, places
from tests.training.test_valid_users import chosen

SMALL = [
    "model.name=mf",
    "model.embedding_dim=16",
    "train.batch_size=256",
    "train.device=cpu",
    "adar.pool=64",
    "adar.gamma=0.5",
    "loss.name=bpr",
]


def config(*settings: str, epochs: int = 4) -> Config:
    return load_config(settings=[*SMALL, f"train.epochs={epochs}", *settings])


def metrics(run: Run | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for the times, which no two runs share."""
    folder = Path(run.folder.path) if isinstance(run, Run) else run
    lines = sealed.read_lines(folder / "metrics.jsonl")
    for line in lines:
        assert line.pop("time")["train_seconds"] > 0
    return lines


def weights(run: Run | Path) -> bytes:
    folder = Path(run.folder.path) if isinstance(run, Run) else run
    return (folder / "model" / "weights.safetensors").read_bytes()


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model of the last checkpoint of a run in one process."""
    part = folder / "checkpoints" / f"{last_epoch(folder):05d}" / "00000-of-00001.safetensors"
    tensors = safetensors.torch.load_file(part)
    return {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """All numbers in nested mappings and lists, under the names of their places."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return {name: value}
    return {place: leaf for key, child in children for place, leaf in numbers(child, f"{name}/{key}").items()}


def message_of(call) -> str:
    with pytest.raises(AdarError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stop_after(epoch: int):
    def on_epoch(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def interrupted(data: Dataset, out: Path, settings: Config, epoch: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, out, settings, workers=0, on_epoch=stop_after(epoch))
    assert len(metrics(out)) == epoch
    assert not (out / "result.json").exists()


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing interrupts."""
    return train(dataset, tmp_path_factory.mktemp("whole") / "run", config(), workers=0)


# In this process.


def test_the_same_twice(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    told: list[EpochRecord] = []
    again = train(dataset, tmp_path / "run", config(), workers=0, on_epoch=told.append)
    assert metrics(again) == metrics(whole)
    assert weights(again) == weights(whole)
    assert told == again.epochs()
    assert [line["epoch"] for line in metrics(again)] == [1, 2, 3, 4]
    other = train(dataset, tmp_path / "other", config("train.seed=1"), workers=0)
    assert metrics(other) != metrics(whole)


def test_what_a_run_holds(dataset: Dataset, whole: Run) -> None:
    folder = Path(whole.folder.path)
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "result.json",
        "model",
    }
    assert not (folder / "progress.json").exists()
    assert load_config(folder / "config.yaml") == config()
    result, lines = json.loads((folder / "result.json").read_text()), metrics(whole)
    values = [line["valid"]["ndcg@20"] for line in lines]
    assert result["best_epoch"] == 1 + values.index(max(values))
    assert result["epochs"] == 4
    assert result["valid"] == lines[result["best_epoch"] - 1]["valid"]
    for name in ("users.parquet", "items.parquet"):
        assert (folder / "model" / name).read_bytes() == dataset.folder.read_bytes(name)


def test_popularity_is_ranked_beside_the_model(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    train_pairs, valid_pairs = (
        set(zip(*dataset.read_split(split), strict=True)) for split in ("train", "valid")
    )
    count = Counter(item for _, item in train_pairs)
    order = sorted(range(dataset.n_items), key=lambda item: (-count[item], item))
    recall, ndcg = [], []
    for user in sorted({user for user, _ in valid_pairs}):
        hits = [(user, item) in valid_pairs for item in order if (user, item) not in train_pairs][:20]
        relevant = sum(pair[0] == user for pair in valid_pairs)
        gains = [1 / math.log2(rank + 2) for rank in range(20)]
        recall.append(sum(hits) / relevant)
        ndcg.append(sum(np.multiply(hits, gains)) / sum(gains[:relevant]))
    popularity = whole.result().popularity
    assert popularity.keys() == whole.result().valid.keys()
    assert popularity["recall@20"] == pytest.approx(np.mean(recall))
    assert popularity["ndcg@20"] == pytest.approx(np.mean(ndcg))
    interrupted(dataset, tmp_path / "run", config(), 2)
    assert resume(tmp_path / "run").result().popularity == popularity


@pytest.mark.parametrize("epoch", [1, 3])
def test_resumes_as_if_it_had_never_stopped(dataset: Dataset, whole: Run, tmp_path: Path, epoch: int) -> None:
    interrupted(dataset, tmp_path / "run", config(), epoch)
    told: list[int] = []
    resumed = resume(tmp_path / "run", on_epoch=lambda record: told.append(record.epoch))
    assert told == list(range(epoch + 1, 5))
    assert metrics(resumed) == metrics(whole)
    assert weights(resumed) == weights(whole)


def test_resumes_a_run_that_died_in_its_first_epoch(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    def die(epoch: int, step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", config(), workers=0, on_step=die)
    resumed = resume(tmp_path / "run")
    assert metrics(resumed) == metrics(whole)
    assert weights(resumed) == weights(whole)


def test_resumes_a_run_that_died_between_metrics_and_checkpoint(
    dataset: Dataset, whole: Run, tmp_path: Path
) -> None:
    interrupted(dataset, tmp_path / "run", config(), 2)
    Run.open(tmp_path / "run").write_epochs(whole.epochs()[:3])
    resumed = resume(tmp_path / "run")
    assert metrics(resumed) == metrics(whole)
    assert weights(resumed) == weights(whole)


def run_section(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())["run"]


def test_resumes_with_other_settings(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    interrupted(dataset, tmp_path / "run", config(), 2)
    assert "resumed" not in run_section(tmp_path / "run")
    stop = stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", settings=["optimizer.lr=0.01", "train.epochs=5"], on_epoch=stop)
    run = resume(tmp_path / "run")  # the change is remembered
    lines, before = metrics(run), metrics(whole)
    assert len(lines) == 5
    assert lines[:2] == before[:2]
    assert lines[2]["loss"] != before[2]["loss"]
    assert Run.open(tmp_path / "run").config == config("optimizer.lr=0.01", epochs=5)
    assert run_section(tmp_path / "run")["resumed"] == [
        {"epoch": 3, "changes": {"optimizer.lr": [0.003, 0.01], "train.epochs": [4, 5]}}
    ]
    assert resume(whole, settings=["optimizer.lr=0.003"]).result() == whole.result()  # no change
    assert "is finished" in message_of(lambda: resume(whole, settings=["optimizer.lr=0.01"]))


def test_resumes_with_the_dataset_elsewhere(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    data = shutil.copytree(dataset.folder.path, tmp_path / "data")
    interrupted(Dataset.open(data), tmp_path / "run", config(), 2)
    data.rename(tmp_path / "moved")
    before = contents(tmp_path / "run")
    message = message_of(lambda: resume(tmp_path / "run"))
    assert (
        message == f"{tmp_path / 'run'}: its dataset is no longer at {data}; say with --data where it is now"
    )
    shutil.copytree(tmp_path / "moved", data, ignore=shutil.ignore_patterns("dataset.json"))
    assert f"at {data} (there is no dataset.json in it);" in message_of(lambda: resume(tmp_path / "run"))
    shutil.rmtree(data)
    (tmp_path / "moved" / "dataset.json").rename(tmp_path / "moved" / "kept.json")
    assert "is not a dataset" in message_of(lambda: resume(tmp_path / "run", data=tmp_path / "moved"))
    (tmp_path / "moved" / "kept.json").rename(tmp_path / "moved" / "dataset.json")
    golden = Path(__file__).parents[1] / "golden" / "data"
    assert "is not the dataset" in message_of(lambda: resume(tmp_path / "run", data=golden))
    assert contents(tmp_path / "run") == before
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", data=tmp_path / "moved", on_epoch=stop_after(3))
    assert run_section(tmp_path / "run")["dataset"] == str(tmp_path / "moved")
    resumed = resume(tmp_path / "run")  # the address is remembered
    assert metrics(resumed) == metrics(whole)
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.embedding_dim=8", "the weights would not fit"),
        ("adar.joins=popularity", None),  # ADAR joins nothing beside a pairwise loss
        ("loss.name=bce", "other samplers would train"),
        ("train.metric=recall@10", "judged by the old value"),
        ("train.valid_users=5", "judged by the old value"),
        ("model.length_power=0.5", "judged by the old value"),
        ("train.epochs=1", "2 epochs are done"),
        ("train.epochs=2", None),
        ("train.batch_size=128", None),
        ("custom.depth=3", "is not known"),
    ],
)
def test_what_may_change_on_the_way(
    dataset: Dataset, tmp_path: Path, setting: str, reason: str | None
) -> None:
    interrupted(dataset, tmp_path / "run", config(), 2)
    if reason is None:
        resume(tmp_path / "run", settings=[setting])
        return
    before = contents(tmp_path / "run")
    message = message_of(lambda: resume(tmp_path / "run", settings=[setting]))
    assert setting.partition("=")[0] in message
    assert reason in message
    assert contents(tmp_path / "run") == before


def test_resuming_a_finished_run_changes_nothing(whole: Run) -> None:
    before = contents(Path(whole.folder.path))
    told: list[EpochRecord] = []
    assert resume(whole.folder.path, on_epoch=told.append).result() == whole.result()
    assert contents(Path(whole.folder.path)) == before
    assert not told


def test_stops_early_and_keeps_the_best_epoch(dataset: Dataset, tmp_path: Path) -> None:
    after: list[dict[str, torch.Tensor]] = []

    def remember(record: EpochRecord) -> None:
        after.append(last_weights(tmp_path / "run"))

    # So fast that it soon overfits.
    settings = config("optimizer.lr=0.05", "train.patience=3", "train.metric=recall@10", epochs=60)
    run = train(dataset, tmp_path / "run", settings, workers=0, on_epoch=remember)
    values = [line["valid"]["recall@10"] for line in metrics(run)]
    best = values.index(max(values))
    assert len(values) < 60
    assert len(values) == best + 1 + 3
    assert run.result().best_epoch == best + 1
    kept = safetensors.torch.load(weights(run))
    assert kept.keys() == after[best].keys()
    assert all(torch.equal(kept[name], after[best][name]) for name in kept)
    assert not all(torch.equal(kept[name], after[-1][name]) for name in kept)


def test_validation_on_some_users(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    def losses_and_figures(users: int) -> list[tuple[float, dict[str, float]]]:
        run = train(dataset, tmp_path / str(users), config(f"train.valid_users={users}"), workers=0)
        return [(line["loss"], line["valid"]) for line in metrics(run)]

    everybody = [(line["loss"], line["valid"]) for line in metrics(whole)]
    assert losses_and_figures(10**6) == everybody
    one = chosen(dataset, dataset.read_split("valid"), 1)
    for (loss, figures), (same_loss, others) in zip(losses_and_figures(1), everybody, strict=True):
        assert loss == same_loss
        assert figures != others
        found = figures["recall@20"] * len(one)  # of one user's interactions, a whole number
        assert found == pytest.approx(round(found))


def test_a_random_split_is_noted_for_a_model_of_sequences(hand_made: Path, tmp_path: Path) -> None:
    sequential, other = (load_config(settings=[f"model.name={name}"]) for name in ("sasrec", "mf"))
    at_random = prepare(hand_made, tmp_path / "ratio", split="ratio")
    assert "the split is random" in (note_on_split(sequential, at_random) or "")
    assert note_on_split(other, at_random) is None
    for split in ("leave-one-out", "temporal"):
        assert note_on_split(sequential, prepare(hand_made, tmp_path / split, split=split)) is None


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_the_callers_mode_of_gradients_changes_nothing(
    dataset: Dataset, whole: Run, tmp_path: Path, mode: Any
) -> None:
    with mode():
        run = train(dataset, tmp_path / "run", config(epochs=1), workers=0)
        assert not torch.is_grad_enabled()
    assert metrics(run) == metrics(whole)[:1]


def test_a_notebook_shows_a_run_in_one_line(whole: Run) -> None:
    assert repr(whole) == f"Run({whole.folder.path}: mf, adar, 4 epochs)"


def test_what_the_command_notes_is_logged_in_python(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uniform = config("sampler.name=uniform", "train.batch_size=65536", epochs=1)
    assert caplog.messages == ["note: adar.pool, adar.gamma have no effect here: the component is not in use"]
    caplog.clear()
    train(dataset, tmp_path / "run", uniform, workers=0)
    (single_step,) = caplog.messages
    assert "note: an epoch is a single step" in single_step
    caplog.clear()
    told: list[str] = []
    train(dataset, tmp_path / "told", uniform, workers=0, on_note=told.append)
    assert (caplog.messages, told) == ([], [single_step.removeprefix("note: ")])


def test_settings_that_a_resumed_run_does_not_use_are_noted_once(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run(dataset, tmp_path / "run", config(epochs=1), workers=0)
    resume(run, settings=(text for text in ["dns.candidates=4"]))
    assert caplog.messages == ["note: dns.candidates has no effect here: the component is not in use"]


def test_streamed_and_kept_data_train_alike(dataset: Dataset, tmp_path: Path) -> None:
    always, never = (
        train(dataset, tmp_path / cache, config(f"data.cache={cache}"), workers=0)
        for cache in ("always", "never")
    )
    assert metrics(always) == metrics(never)
    assert weights(always) == weights(never)


@pytest.mark.parametrize(
    ("settings", "has_timesteps"),
    [
        (["sampler.name=uniform"], False),
        (["sampler.name=uniform", "uniform.negatives=3", "sampler.mask_seen=false"], False),
        (["model.name=lightgcn"], True),
        (["model.cosine=true", "loss.name=sampled_softmax"], True),
        (["loss.name=sampled_softmax", "sampler.name=uniform", "optimizer.lr=0.01"], False),
        (["model.name=lightgcn", "loss.name=sampled_softmax", "adar.weight=2"], True),
    ],
)
def test_models_losses_and_samplers(
    dataset: Dataset, tmp_path: Path, settings: list[str], has_timesteps: bool
) -> None:
    lines = metrics(train(dataset, tmp_path / "run", config(*settings, "optimizer.lr=0.005"), workers=0))
    assert len(lines) == 4
    assert all(math.isfinite(number) for line in lines for number in numbers(line).values())
    assert lines[-1]["loss"] < lines[0]["loss"]
    for line in lines:
        assert ("timestep" in line["sampler"]) == has_timesteps
        if has_timesteps:
            assert 0.1 <= line["sampler"]["timestep"] <= 1
            assert sum(line["sampler"]["timesteps"]) == pytest.approx(1)
            assert 0 < line["sampler"]["uncrossed"] <= line["sampler"]["timesteps"][-1]


@pytest.fixture(scope="module")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Even users like even items, odd users odd ones, 25 each."""
    path = tmp_path_factory.mktemp("checkerboard") / "pairs.csv"
    pairs = [(user, item) for user in range(60) for item in range(50) if user % 2 == item % 2]
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs))
    return path


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("sampler", ["adar", "uniform"])
@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_learns(checkerboard: Path, tmp_path: Path, sampler: str, loss: str) -> None:
    data = prepare(checkerboard, tmp_path / "data", split="ratio")
    settings = config(
        f"sampler.name={sampler}", f"loss.name={loss}", "optimizer.lr=0.02", "train.patience=5", epochs=15
    )
    run = train(data, tmp_path / "run", settings, workers=0)
    found = evaluate(run, "test", [5])
    assert found.users == 60
    # 5 of 25 pairs are held out, and 2 of the other 20 validate: 30 items are left to rank, 5 of them
    # right and 25 of the other color. By chance one would find 5 / 30 of them, and NDCG is as much.
    assert found.metrics["recall@5"] > 0.8
    assert found.metrics["ndcg@5"] > 0.8


@pytest.mark.usefixtures("ray_cluster")
def test_without_validation(hand_made: Path, checkerboard: Path, tmp_path: Path) -> None:
    data = prepare(checkerboard, tmp_path / "data", split="ratio", valid_fraction=0)
    assert data.manifest.counts.valid == 0
    run = train(data, tmp_path / "run", config("train.patience=1"), workers=0)
    assert [line["epoch"] for line in metrics(run)] == [1, 2, 3, 4]
    assert all("valid" not in line for line in metrics(run))
    assert run.result().best_epoch == 4
    assert run.result().valid is None
    assert run.result().popularity is None
    last = last_weights(tmp_path / "run")
    kept = safetensors.torch.load(weights(run))
    assert all(torch.equal(kept[name], last[name]) for name in last)
    assert evaluate(run, "test", [5]).users == 60
    assert "has no interactions in valid" in message_of(lambda: evaluate(run, "valid"))


# What is replaced.


def test_what_is_replaced_stays_until_the_new_run_is_finished(
    dataset: Dataset, whole: Run, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole.folder.path, tmp_path / "run"))
    old = contents(run)

    def look(record: EpochRecord) -> None:
        assert contents(run / "replaced") == old
        if record.epoch == 2:
            raise KeyboardInterrupt

    for _ in range(2):  # the second time an unfinished run is replaced
        with pytest.raises(KeyboardInterrupt):
            train(dataset, run, config("train.seed=1"), workers=0, replace=True, on_epoch=look)
        assert contents(run / "replaced") == old
    assert evaluate(run / "replaced", "test").users > 0  # it is a run like any other
    assert len(metrics(resume(run))) == 4
    assert "replaced" not in os.listdir(run)
    assert metrics(run) != metrics(whole)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_what_is_replaced_comes_back_if_training_cannot_start(
    dataset: Dataset, whole: Run, tmp_path: Path, workers: int
) -> None:
    run = Path(shutil.copytree(whole.folder.path, tmp_path / "run"))
    old = contents(run)
    settings = config("optimizer.lr=1e30")
    message = message_of(lambda: train(dataset, run, settings, workers=workers, replace=True))
    assert "optimizer.lr" in message
    assert contents(run) == old


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_replaced_does_not_come_back_once_a_step_is_saved(
    dataset: Dataset, whole: Run, tmp_path: Path, damaged: bool
) -> None:
    run = Path(shutil.copytree(whole.folder.path, tmp_path / "run"))
    old = contents(run)

    def terminate(epoch: int, step: int, steps: int) -> None:
        if (epoch, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedError, match="saved at epoch 1, step 3"):
        train(dataset, run, config("train.seed=1"), workers=0, replace=True, on_step=terminate)
    assert places(run) == [(0, 3)]
    assert contents(run / "replaced") == old
    if damaged:
        (run / "checkpoints" / "00000-00000003" / "state.json").write_bytes(b"")
        assert "there is no other checkpoint" in message_of(lambda: resume(run))
        assert contents(run / "replaced") == old
        return
    resume(run)
    assert metrics(run) == metrics(train(dataset, tmp_path / "once", config("train.seed=1"), workers=0))
    assert "replaced" not in os.listdir(run)


def test_a_run_in_a_folder_that_must_stay(
    dataset: Dataset, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out, place in (("../link", "target"), (".", "here")):
        inode = None
        for replace in (False, True):
            train(dataset, out, config(), workers=0, replace=replace)
            assert metrics(tmp_path / place) == metrics(whole)
            assert inode in (None, (tmp_path / place).stat().st_ino)
            inode = (tmp_path / place).stat().st_ino
    assert (tmp_path / "link").is_symlink()


# One writer.

RESUME = """
import sys
import torch
from adar_ray.training.trainer import resume
torch.set_num_threads(1)
resume(sys.argv[1])
"""


def test_a_run_that_another_process_trains(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    """It is refused while that process lives, and goes on at once where it was killed."""
    long = config("train.patience=999", epochs=400)
    interrupted(dataset, tmp_path / "run", long, 1)
    other = subprocess.Popen([sys.executable, "-c", RESUME, tmp_path / "run"])
    deadline = time.monotonic() + 120
    while len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 3:
        assert other.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for attempt in (
        lambda: resume(tmp_path / "run"),
        lambda: train(dataset, tmp_path / "run", long, workers=0),
        lambda: train(dataset, tmp_path / "run", long, workers=0, replace=True),
    ):
        message = message_of(attempt)
        assert f"in use by process {other.pid} on " in message
        assert "wait for its end" in message
    other.kill()
    other.wait()
    killed_at = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    with pytest.raises(KeyboardInterrupt):
        resume(tmp_path / "run", on_epoch=stop_after(killed_at + 2))
    assert [line["epoch"] for line in metrics(tmp_path / "run")] == list(range(1, killed_at + 3))
    assert metrics(tmp_path / "run")[:4] == metrics(whole)[:4]
    assert not (tmp_path / "run" / "lease.json").exists()


DIE_HOLDING = """
import os, signal, sys
from adar_ray.lease import hold
from adar_ray.storage import Folder
with hold(Folder.at(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_process_leaves_that_dies_after_the_end_is_removed(whole: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.folder.path, out)
    subprocess.run([sys.executable, "-c", DIE_HOLDING, out], check=False)
    assert (out / "lease.json").exists()
    resume(out)
    assert contents(out) == contents(Path(whole.folder.path))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_whoever_loses_a_run_writes_nothing_more(
    dataset: Dataset, tmp_path: Path, workers: int, request: pytest.FixtureRequest
) -> None:
    if workers:
        request.getfixturevalue("ray_cluster")
    out = tmp_path / "run"
    epochs = 4 if workers == 0 else 400
    then: dict[str, bytes] = {}

    def lose(record: EpochRecord) -> None:
        if record.epoch == 2:
            lease = sealed.read(out / "lease.json")
            sealed.write(out / "lease.json", {**lease, "id": "another", "pid": 1, "host": "far"})
            if not workers:
                then.update(contents(out))

    settings = config("train.patience=999", epochs=epochs)
    message = message_of(lambda: train(dataset, out, settings, workers=workers, on_epoch=lose))
    assert f"{out}: process 1 on far" in message
    assert "has taken it over" in message
    assert not (out / "result.json").exists()
    assert len(metrics(out)) < epochs
    if not workers:
        assert {name: data for name, data in contents(out).items() if "tensorboard" not in name} == {
            name: data for name, data in then.items() if "tensorboard" not in name
        }


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda lines: [lines[0], lines[0], *lines[1:]], "line 2: it is epoch 1"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: it is epoch 3"),
        (lambda lines: [{**lines[0], "best_epoch": 7}], "line 1: it names 7 as the best"),
        (lambda lines: [{**lines[0], "loss": None}], "line 1: loss: give a number"),
        (lambda lines: lines[:1], "ends at epoch 1, the checkpoint is of epoch 3"),
    ],
)
def test_metrics_of_other_epochs(dataset: Dataset, tmp_path: Path, edit, problem: str) -> None:
    interrupted(dataset, tmp_path / "run", config(), 3)
    file = tmp_path / "run" / "metrics.jsonl"
    file.write_bytes(to_lines(edit(sealed.read_lines(file))))
    edited = file.read_bytes()
    message = message_of(lambda: resume(tmp_path / "run"))
    assert problem in message
    assert "metrics.jsonl" in message
    assert str(tmp_path / "run") in message
    assert file.read_bytes() == edited
    if problem.startswith("line"):
        assert message_of(lambda: side_by_side([tmp_path / "run"])) == message


def test_a_finished_run_without_its_metrics(whole: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole.folder.path, tmp_path / "run"))
    (copy / "metrics.jsonl").unlink()
    message = message_of(lambda: side_by_side([copy]))
    assert message == f"{copy}/metrics.jsonl: has 0 epochs, not 4; restore the file"


# What is refused.


def test_an_existing_run_is_refused(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    before = contents(Path(whole.folder.path))
    message = message_of(lambda: train(dataset, whole.folder.path, config(), workers=0))
    assert "finished run" in message
    assert "--replace" in message
    assert contents(Path(whole.folder.path)) == before

    interrupted(dataset, tmp_path / "unfinished", config(), 1)
    message = message_of(lambda: train(dataset, tmp_path / "unfinished", config(), workers=0))
    assert "unfinished run" in message
    assert f"adar-ray train --resume {tmp_path / 'unfinished'}" in message
    assert len(metrics(tmp_path / "unfinished")) == 1

    replaced = train(dataset, tmp_path / "unfinished", config(epochs=2), workers=0, replace=True)
    assert metrics(replaced) == metrics(whole)[:2]


def test_a_folder_that_is_no_run_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("mine")
    message = message_of(lambda: train(dataset, tmp_path / "letters", config(), workers=0))
    assert "is not empty and not a run" in message
    for open_it in (resume, evaluate):
        assert "is not a run folder" in message_of(lambda open_it=open_it: open_it(tmp_path / "letters"))
    assert contents(tmp_path / "letters") == {"mine.txt": b"mine"}


def test_a_changed_dataset_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset.folder.path, tmp_path / "data"))
    interrupted(Dataset.open(data), tmp_path / "run", config(), 1)
    sealed.write(data / "dataset.json", {**sealed.read(data / "dataset.json"), "name": "another"})
    before = contents(tmp_path / "run")
    for use in (resume, evaluate):
        message = message_of(lambda use=use: use(tmp_path / "run"))
        assert f"{data}: has changed since {tmp_path / 'run'} was trained" in message
    assert contents(tmp_path / "run") == before


def test_a_damaged_shard(dataset: Dataset, tmp_path: Path) -> None:
    data = Path(shutil.copytree(dataset.folder.path, tmp_path / "data"))
    shard = data / "train" / "00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    for cache in ("always", "never"):
        settings = config(f"data.cache={cache}")
        message = message_of(lambda s=settings, c=cache: train(data, tmp_path / c, s, workers=0))
        assert f"{shard}: is damaged" in message


def test_more_workers_than_lanes_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    message = message_of(lambda: train(dataset, tmp_path / "run", config(), workers=65))
    assert message == "--workers 65: the dataset has 64 lanes of users to share; ask for fewer"
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    message = message_of(lambda: train(dataset, tmp_path / "run", config("optimizer.lr=1e30"), workers=0))
    assert "epoch 1" in message
    assert "optimizer.lr" in message
    # Training goes on from the last epoch whose weights are numbers; here that is the start.
    run = resume(tmp_path / "run", settings=["optimizer.lr=0.003"])
    assert metrics(run) == metrics(whole)


UNSTABLE = """
from torch.nn.functional import softplus

breaks = False


def build(dataset, config):
    def loss(positive_B, negative_BK, mask_BK, log_q_BK):
        loss_B = (softplus(negative_BK - positive_B[:, None]) * mask_BK).mean(1)
        return loss_B + (0 * positive_B).sqrt() if breaks else loss_B  # adds 0, of gradient NaN

    return loss
"""


def test_weights_that_are_no_numbers_are_not_kept(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unstable_loss.py").write_text(UNSTABLE)
    monkeypatch.syspath_prepend(tmp_path)
    # An epoch is a single step, so that no loss shows what the step did.
    settings = config("loss.name=unstable_loss:build", "sampler.name=uniform", "train.batch_size=100000")
    reference = train(dataset, tmp_path / "reference", settings, workers=0)
    interrupted(dataset, tmp_path / "run", settings, 2)
    monkeypatch.setattr("unstable_loss.breaks", True)
    assert "epoch 3: a weight is not a number" in message_of(lambda: resume(tmp_path / "run", trust=True))
    assert len(metrics(tmp_path / "run")) == 2
    monkeypatch.setattr("unstable_loss.breaks", False)
    resumed = resume(tmp_path / "run", trust=True)
    assert metrics(resumed) == metrics(reference)
    assert weights(resumed) == weights(reference)


# On Ray Train. Every test here starts workers, which takes most of its time.


def assert_close(run: Run, reference: Run) -> None:
    mine, theirs = numbers(metrics(run)), numbers(metrics(reference))
    assert mine.keys() == theirs.keys()
    for place in mine:
        assert mine[place] == pytest.approx(theirs[place], rel=1e-5, abs=1e-12), place


def seconds(run: Run) -> Any:
    times = [record.time for record in run.epochs()]
    return pytest.approx(sum(time.train_seconds + time.valid_seconds for time in times))


def core_seconds(run: Run) -> float:
    return run.result().cost.core_seconds


def test_a_core_counts_for_every_thread(dataset: Dataset, tmp_path: Path) -> None:
    settings = ["model.name=mf", "model.embedding_dim=4", "train.epochs=2", "train.device=cpu", "adar.pool=8"]
    config = load_config(settings=[*settings, "train.threads=2"])
    run = train(dataset, tmp_path / "run", config, workers=0)
    seconds = sum(epoch.time.train_seconds + epoch.time.valid_seconds for epoch in run.epochs())
    assert core_seconds(run) == pytest.approx(2 * seconds)
    assert run.result().cost.gpu_seconds == 0


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_does_what_this_process_does(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    told: list[EpochRecord] = []
    run = train(dataset, tmp_path / "run", config(), workers=1, on_epoch=told.append)
    assert metrics(run) == metrics(whole)
    assert weights(run) == weights(whole)
    assert told == run.epochs()
    # Nothing of Ray's own is left in the run.
    kept = {f"{epoch:05d}" for record in told[-2:] for epoch in (record.epoch, record.best_epoch)}
    assert {*os.listdir(tmp_path / "run" / "checkpoints")} == kept


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_callback_raises_ends_the_training_of_workers(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(dataset, out, config(epochs=5000), workers=1, on_epoch=stop_after(2))
    assert 2 <= len(metrics(out)) < 5000
    assert not (out / "result.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_that_keep_their_data(dataset: Dataset, tmp_path: Path) -> None:
    # Uniform negatives that the batch shares and ADAR's, whose running mean (gamma is not 1) all share.
    loss = ("loss.name=sampled_softmax", "sampled_softmax.temperature=0.2", "loss.l2=0.01")
    # With larger steps, rounding grows until it moves timesteps from one part of their histogram to the next.
    settings = config("data.cache=always", "model.cosine=true", *loss, "optimizer.lr=0.003", epochs=3)
    reference = train(dataset, tmp_path / "one", settings, workers=0)
    run = train(dataset, tmp_path / "two", settings, workers=2)
    assert_close(run, reference)
    assert core_seconds(reference) == seconds(reference)
    assert core_seconds(run) / 2 == seconds(run)


@pytest.mark.usefixtures("ray_cluster")
def test_resumes_on_another_number_of_workers(dataset: Dataset, whole: Run, tmp_path: Path) -> None:
    interrupted(dataset, tmp_path / "run", config(), 2)
    resumed = resume(tmp_path / "run", workers=1)
    assert metrics(resumed) == metrics(whole)
    assert weights(resumed) == weights(whole)
    section = run_section(tmp_path / "run")
    assert section["workers"] == 1
    assert section["resumed"] == [{"epoch": 3, "changes": {"run.workers": [0, 1]}}]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_interrupted_on_a_stream_and_resumed(dataset: Dataset, tmp_path: Path) -> None:
    def settings(epochs: int) -> Config:
        more = ("data.cache=never", "sampler.name=uniform", "train.batch_size=32", "train.patience=1000")
        return config(*more, epochs=epochs)

    def press_control_c(record: EpochRecord) -> None:
        if record.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "two", settings(1000), workers=2, on_epoch=press_control_c)
    assert signal.getsignal(signal.SIGINT) is handler
    assert {group["state"] for group in placement_group_table().values()} == {"REMOVED"}
    assert not (tmp_path / "two" / "result.json").exists()
    epochs = len(metrics(tmp_path / "two")) + 1
    assert 1 < epochs < 1000
    reference = train(dataset, tmp_path / "one", settings(epochs), workers=0)
    assert_close(resume(tmp_path / "two", settings=[f"train.epochs={epochs}"]), reference)


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_in_a_worker_comes_out_as_its_own_line_and_at_once(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config("optimizer.lr=1e30")
    alone = message_of(lambda: train(dataset, tmp_path / "alone", settings, workers=0))
    of_worker = message_of(lambda: train(dataset, tmp_path / "ray", settings, workers=1))
    assert of_worker == alone.replace(str(tmp_path / "alone"), str(tmp_path / "ray"))
    assert "going on" not in caplog.text


def test_several_workers_cannot_share_a_gpu(dataset: Dataset, tmp_path: Path) -> None:
    settings = config("train.device=cuda", "train.gpus=0.5")
    with pytest.raises(AdarError, match=r"^train\.gpus=0\.5: several workers .* or --workers 1$"):
        train(dataset, tmp_path / "run", settings, workers="1:2")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_machine_does_not_have_is_refused_before_anything_is_written(
    dataset: Dataset, tmp_path: Path, workers: int
) -> None:
    wanted = ["train.threads=100000"]
    wanted += [] if torch.cuda.is_available() else ["train.device=cuda"]
    for setting in wanted:
        with pytest.raises(AdarError, match=r"100000|train\.device=cuda"):
            train(dataset, tmp_path / "run", config(setting), workers=workers)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_on_a_gpu_resumes_only_where_there_is_one(dataset: Dataset, tmp_path: Path) -> None:
    for workers in (0, 1):
        folder = Folder.at(tmp_path / f"run-{workers}")
        run = Run.begin(folder, config("train.device=cuda"), dataset, workers)
        with pytest.raises(AdarError, match=r"^train.device=cuda: "):
            resume(run)
