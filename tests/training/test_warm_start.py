"""Warm starts: who keeps which vector, what is refused, and that a run needs its source no more."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from adar_ray.config import Config, load_config
from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError, TerminatedError
from adar_ray.training.run import Run
from adar_ray.training.trainer import new_run, resume, train
from adar_ray.training.warm_start import note_on_warm_start

SMALL = ["model.embedding_dim=4", "train.batch_size=64", "train.device=cpu", "train.epochs=1", "adar.pool=8"]
STANDS_STILL = "optimizer.lr=1e-30"  # a weight is what it was at the start
MODELS = ["mf", "lightgcn", "neumf", "bert4rec"]


def config(*settings: str) -> Config:
    return load_config(settings=[*SMALL, *settings])


def make(folder: Path, users: range, items: range, /, **options: object) -> Dataset:
    """Each user with six of the items, in order of time."""
    draw = np.random.default_rng(0)
    lines = ["user,item,timestamp"]
    for user in users:
        chosen = draw.choice(len(items), 6, replace=False)
        lines += [f"u{user},i{items[one]},{1000 * user + time}" for time, one in enumerate(chosen)]
    folder.mkdir(exist_ok=True)
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return prepare(folder / "rows.csv", folder / "data", replace=True, **options)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("before"), range(30), range(16))


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Five users and items are gone, others have come, and all have other numbers."""
    return make(tmp_path_factory.mktemp("now"), range(5, 40), range(5, 24))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(f"{run.folder}/model/weights.safetensors")


def by_key(weight: torch.Tensor, keys: list[str]) -> dict[str, torch.Tensor]:
    return dict(zip(keys, weight, strict=False))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-20)


@pytest.mark.parametrize("model", MODELS)
def test_those_who_stay_keep_their_vectors_and_others_start_as_ever(
    before: Dataset, now: Dataset, tmp_path: Path, model: str
) -> None:
    old = train(before, tmp_path / "old", config(f"model.name={model}", "optimizer.lr=0.1"), workers=0)
    settings = config(f"model.name={model}", STANDS_STILL)
    warm = train(now, tmp_path / "warm", settings, workers=0, init_from=old.folder.address)
    cold = train(now, tmp_path / "cold", settings, workers=0)
    has_users = "user.weight" in weights(old)
    assert warm.info.initial.users == (25 if has_users else None)
    assert warm.info.initial.items == 11
    keys = {"user.weight": Dataset.user_keys, "item.weight": Dataset.item_keys}
    for name, tensor in weights(warm).items():
        if name not in keys:
            assert same(tensor, weights(old)[name]), name
            continue
        its_keys = keys[name](now).to_pylist()
        old_vectors = by_key(weights(old)[name], keys[name](before).to_pylist())
        new_vectors = by_key(weights(cold)[name], its_keys)
        for key, vector in by_key(tensor, its_keys).items():
            assert same(vector, old_vectors.get(key, new_vectors[key])), (name, key)
    if model == "bert4rec":  # the vector of masked items follows those of items
        assert same(weights(warm)["item.weight"][-1], weights(old)["item.weight"][-1])


def test_features_keep_their_vectors_by_column_and_category(tmp_path: Path) -> None:
    made = []
    for name, kinds in (("before", "abc"), ("now", "xbca")):
        (tmp_path / f"{name}.csv").write_text(
            "item,kind,size\n" + "".join(f"i{n},{kinds[n % len(kinds)]},{n}\n" for n in range(12))
        )
        options = {
            "items": tmp_path / f"{name}.csv",
            "item_columns": {"kind": "categories", "size": "number"},
        }
        made.append(make(tmp_path / name, range(30), range(12), **options))
    settings = config("model.name=twotower", STANDS_STILL)
    old = train(made[0], tmp_path / "old", config("model.name=twotower", "optimizer.lr=0.1"), workers=0)
    warm = train(made[1], tmp_path / "warm", settings, workers=0, init_from=old)
    cold = train(made[1], tmp_path / "cold", settings, workers=0)
    was, drawn, now = (weights(run)["feature.weight"] for run in (old, cold, warm))  # a, b, c, then the size
    assert same(now, torch.stack([was[0], was[1], was[2], drawn[3], was[3]]))


def test_a_run_goes_on_without_its_source(before: Dataset, now: Dataset, tmp_path: Path) -> None:
    settings = config("model.name=mf", "train.epochs=3")
    old = train(before, tmp_path / "old", config("model.name=mf"), workers=0)
    whole = train(now, tmp_path / "whole", settings, workers=0, init_from=old)
    new_run(now, tmp_path / "run", settings, workers=0, init_from=f"{tmp_path}/old/model")
    shutil.rmtree(tmp_path / "old")

    def stop(epoch: int, step: int, steps: int) -> None:
        if epoch == 2:
            raise TerminatedError("stopped")

    with pytest.raises(TerminatedError):
        resume(tmp_path / "run", on_step=stop)
    resumed = resume(tmp_path / "run")
    assert torch.equal(weights(resumed)["item.weight"], weights(whole)["item.weight"])
    assert not torch.equal(
        weights(resumed)["item.weight"],
        weights(train(now, tmp_path / "cold", settings, workers=0))["item.weight"],
    )


def test_a_damaged_start_is_named(before: Dataset, now: Dataset, tmp_path: Path) -> None:
    old = train(before, tmp_path / "old", config("model.name=mf"), workers=0)
    new_run(now, tmp_path / "run", config("model.name=mf"), workers=0, init_from=old)
    file = tmp_path / "run" / "initial.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(AdarError, match=r"run/initial\.safetensors: cannot be read \(wrong checksum\)"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("model.name=mf", "has model.name lightgcn, this run mf"),
        ("model.embedding_dim=8", "has model.embedding_dim 4, this run 8"),
        ("model.cosine=false", "has model.cosine True, this run False"),
    ],
)
def test_other_shapes_are_refused_by_the_settings_of_both(
    before: Dataset, now: Dataset, tmp_path: Path, setting: str, problem: str
) -> None:
    old = train(before, tmp_path / "old", config(), workers=0)
    with pytest.raises(AdarError, match=rf"{old.folder}: {problem}, so .*--set model"):
        train(now, tmp_path / "run", config(setting), workers=0, init_from=old)
    assert not (tmp_path / "run").exists()


def test_other_lengths_of_histories_are_refused(before: Dataset, tmp_path: Path) -> None:
    old = train(before, tmp_path / "old", config("model.name=sasrec"), workers=0)
    short = make(tmp_path / "short", range(30), range(16), sequence_length=20)
    with pytest.raises(AdarError, match=r"position.weight .*\(prepared with --sequence-length 50, not 20\)"):
        train(short, tmp_path / "run", config("model.name=sasrec"), workers=0, init_from=old)


def test_what_was_trained_on_and_is_held_out_now_is_told(before: Dataset, tmp_path: Path) -> None:
    old = train(before, tmp_path / "old", config("model.name=mf"), workers=0)
    again = new_run(before, tmp_path / "same", config("model.name=mf"), init_from=old)
    assert again.info.initial.held_out == 0
    line = f"kept the vectors of 30 of 30 users and 16 of 16 items from {old.folder}"
    assert note_on_warm_start(again, before) == line
    random = prepare(before.manifest.source.address, tmp_path / "random", split="ratio")
    mixed = new_run(random, tmp_path / "mixed", config("model.name=mf"), init_from=old)
    trained, held_out = (
        {
            (dataset.user_keys()[user].as_py(), dataset.item_keys()[item].as_py())
            for split in splits
            for user, item in zip(*dataset.read_split(split), strict=True)
        }
        for dataset, splits in ((before, ["train"]), (random, ["valid", "test"]))
    )
    assert mixed.info.initial.held_out == len(trained & held_out) > 0
    assert note_on_warm_start(mixed, random).startswith(line)
    assert f"trained on {len(trained & held_out)} interactions" in note_on_warm_start(mixed, random)


CUSTOM = """
from adar_ray.models.mf import MF
from torch import nn


class Unnamed(MF):
    user_tables = {}


def build(dataset, config):
    return MF(dataset.n_users, dataset.n_items, config.model.embedding_dim)


def build_unnamed(dataset, config):
    return Unnamed(dataset.n_users, dataset.n_items, config.model.embedding_dim)
"""


def test_a_custom_model_needs_trust_and_names_its_tables(
    before: Dataset, now: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "warm_custom.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("build", "build_unnamed"):
        settings = config(f"model.name=warm_custom:{name}", STANDS_STILL)
        old = train(before, tmp_path / f"old-{name}", settings, workers=0)
        address = old.folder.address
        with pytest.raises(AdarError, match=f"names code that would run .warm_custom:{name}"):
            train(now, tmp_path / name, settings, workers=0, init_from=address)
        if name == "build_unnamed":
            with pytest.raises(AdarError, match=r"user\.weight has as many rows as there are users or items"):
                train(now, tmp_path / name, settings, workers=0, init_from=address, trust=True)
            continue
        warm = train(now, tmp_path / name, settings, workers=0, init_from=address, trust=True)
        vectors = by_key(weights(warm)["user.weight"], now.user_keys().to_pylist())
        old_vectors = by_key(weights(old)["user.weight"], before.user_keys().to_pylist())
        assert same(vectors["u17"], old_vectors["u17"])
    sys.modules.pop("warm_custom", None)


def test_workers_begin_with_the_same_vectors(
    ray_cluster: None, before: Dataset, now: Dataset, tmp_path: Path
) -> None:
    settings = config("model.name=mf", "loss.name=bpr", "model.tables=sharded")
    old = train(before, tmp_path / "old", settings, workers=0)
    runs = [
        train(now, tmp_path / str(workers), settings, workers=workers, init_from=old) for workers in (0, 2)
    ]
    for name, tensor in weights(runs[0]).items():
        assert torch.allclose(tensor, weights(runs[1])[name], atol=1e-6)
