"""Arguments of functions that are not what they should be: one clear line, and nothing written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from adar_ray import compare, evaluate, prepare, resume, train, tune
from adar_ray.config import load_config
from adar_ray.data.dataset import Dataset
from adar_ray.errors import AdarError
from adar_ray.inference.export import export


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda out: evaluate("run", ks=10), "--k 10: give a list, such as [10]"),
        (lambda out: evaluate("run", ks=[]), "--k: names none"),
        (lambda out: evaluate("run", ks=["10"]), "--k '10': give a number"),
        (lambda out: evaluate("run", "tst"), "--split tst: there is none; give train, valid, test"),
        (lambda out: evaluate("run", metrics="a:b"), "--metric 'a:b': give a list, such as ['a:b']"),
        (lambda out: evaluate("run", metrics=[len]), "metric <built-in function len>: name it as module:"),
        (lambda out: compare("data", out, settings={"a.b": 1}), "settings: is a mapping; give a list of"),
        (lambda out: compare("data", out, models="mf"), "--models 'mf': give a list"),
        (lambda out: compare("data", out, baselines="ease"), "--baselines 'ease': give a list"),
        (lambda out: export("run", out, formats="torch"), "--format 'torch': give a list"),
        (lambda out: load_config(settings="train.epochs=1"), "settings 'train.epochs=1': give a list"),
        (
            lambda out: load_config(settings=[("train.epochs", 1)]),
            "--set ('train.epochs', 1): give it as section",
        ),
        (lambda out: load_config(settings={"a.b": 1}), "settings: is a mapping; give a list of section.key"),
        (
            lambda out: resume("run", settings={"a.b": 1}),
            "settings: is a mapping; give a list of section.key",
        ),
        (lambda out: load_config({"train": {"epochs": 1}}), "file: is a mapping; give it as values"),
        (lambda out: tune("data", {"parameters": {}}, out), "space: parameters: name at least one"),
        (lambda out: tune("data", {"parametres": {}}, out), "space: there is no key parametres; did you"),
        (lambda out: tune("data", {}, out, settings="train.epochs=1"), "settings 'train.epochs=1': give a"),
        (lambda out: train("data", out, on_epoch=[len]), "on_epoch [<built-in function len>]: give a func"),
        (lambda out: resume("run", on_end=None), "on_end None: give a function"),
        (lambda out: train("data", out, {"train": {}}), "config: is a dict; give what"),
        (lambda out: train(None, out), "NoneType: is no address"),
        (lambda out: prepare(pa.table({"user": [1]}), out), "Table: is no source; write it to a file"),
        (lambda out: prepare("x.csv", out, columns=["user"]), "--columns ['user']: give a mapping, such as"),
        (lambda out: prepare("x.csv", out, columns="user=u"), "--columns 'user=u': give a mapping, such as"),
        (lambda out: prepare("x.csv", out, item_columns=["g"]), "--item-columns ['g']: give a mapping, such"),
        (lambda out: prepare("x.csv", out, split="ratios"), "--split 'ratios': give one of leave-one-out"),
        (lambda out: prepare("x.csv", out, repeat="all"), "--repeat 'all': give one of first, last, keep"),
        (lambda out: prepare("x.csv", out, test_fraction=2), "--test-fraction 2: give 0 to 1"),
        (lambda out: prepare("x.csv", out, test_fraction="0.2"), "--test-fraction '0.2': give a number"),
        (lambda out: prepare("x.csv", out, valid_fraction=1), "--test-fraction 0.2 and --valid-fraction 1:"),
        (lambda out: prepare("x.csv", out, sequence_length=0), "--sequence-length 0: give"),
        (lambda out: prepare("x.csv", out, sequence_length="5"), "--sequence-length '5': give a number"),
        (lambda out: prepare("x.csv", out, null_words="NA"), "--null-words 'NA': give a list"),
        (lambda out: prepare("x.csv", out, rows_per_shard=0), "--rows-per-shard 0: give"),
    ],
)
def test_an_argument_of_another_kind_is_refused(
    dataset: Dataset, tmp_path: Path, call: Any, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(dataset.folder.path)
    with pytest.raises(AdarError, match=rf"^{re.escape(problem)}") as caught:
        call(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
