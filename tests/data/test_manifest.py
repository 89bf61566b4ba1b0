"""The records of `dataset.json`: exact text, and rejection of unknown keys."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

from adar_ray.data.manifest import Manifest, PreparedSource, SplitRecord, count_rows
from adar_ray.data.split import SplitProtocol
from adar_ray.documents import explain
from adar_ray.storage import FileEntry, Folder

TEXT = """\
{
  "schema_version": 4,
  "name": "ö",
  "source": {
    "address": "log.csv",
    "format": "csv",
    "files": 1,
    "columns": {
      "user": "who",
      "item": "what"
    },
    "rows": {
      "read": 7,
      "bad": 1,
      "repeated": 1,
      "held_out_in_training": 1,
      "valid_in_test": 0,
      "low_rating": 1,
      "few_interactions": 1,
      "kept": 2
    },
    "repeat": "first",
    "interactions_in_time_order": "timestamp",
    "min_rating": null,
    "core": 0
  },
  "split": {
    "protocol": "temporal",
    "test_fraction": 0.2,
    "valid_fraction": 0.1
  },
  "counts": {
    "users": 1,
    "items": 2,
    "interactions": 2,
    "train": 2,
    "valid": 0,
    "test": 0
  },
  "sequences": {
    "length": 50,
    "stride": 50,
    "rows": 1
  },
  "lanes": {
    "groups": 1,
    "users": [
      0,
      1
    ],
    "train": [
      0,
      2
    ],
    "sequences": [
      0,
      1
    ]
  },
  "notes": [],
  "files": [
    {
      "name": "users.parquet",
      "rows": 1,
      "bytes": 10,
      "sha256": "01"
    },
    {
      "name": "items.parquet",
      "rows": 2,
      "bytes": 10,
      "sha256": "02"
    },
    {
      "name": "sequences/00000.parquet",
      "rows": 1,
      "bytes": 10,
      "sha256": "03"
    },
    {
      "name": "train/00000.parquet",
      "rows": 2,
      "bytes": 10,
      "sha256": "00"
    }
  ]
}
"""


def test_text_is_kept_byte_for_byte(tmp_path):
    manifest = Manifest.model_validate_json(TEXT)
    Folder.at(tmp_path).write_record("dataset.json", manifest)
    head = TEXT.removesuffix("\n}\n") + ',\n  "sha256": "'
    checksum = hashlib.sha256(head.encode()).hexdigest()
    assert (tmp_path / "dataset.json").read_text() == f'{head}{checksum}"\n}}\n'
    assert Folder.at(tmp_path).read_record("dataset.json", Manifest) == manifest
    assert Manifest.model_validate(json.loads(TEXT)) == manifest


def test_synthetic_source():
    content = json.loads(TEXT)
    content["source"] = {"synthetic": {"users": 1, "items": 2, "interactions": 2, "seed": 0}}
    assert Manifest.model_validate(content).model_dump() == content


@pytest.mark.parametrize(("min_rating", "text"), [(4, "4"), (4.0, "4.0"), (2.5, "2.5"), (None, "null")])
def test_min_rating_is_written_as_it_was_given(min_rating, text):
    source = json.loads(TEXT)["source"]
    written = PreparedSource(**{**source, "min_rating": min_rating}).model_dump()
    assert json.dumps(written["min_rating"]) == text


def test_unknown_keys_are_rejected():
    with pytest.raises(ValidationError, match="color"):
        Manifest.model_validate({**json.loads(TEXT), "color": "red"})


def test_split_record_leaves_out_unused_settings():
    assert SplitProtocol(protocol="leave-one-out", seed=5).record() == SplitRecord(protocol="leave-one-out")
    assert SplitRecord(protocol="leave-one-out").model_dump() == {"protocol": "leave-one-out"}
    assert SplitRecord(protocol="given", valid_fraction=0.0, seed=0).model_dump() == {
        "protocol": "given",
        "valid_fraction": 0.0,
        "seed": 0,
    }


def test_count_rows_by_kind():
    files = [
        FileEntry(name=name, rows=rows, bytes=1, sha256="")
        for name, rows in (("train/0.parquet", 3), ("test/0.parquet", 4), ("training/0.parquet", 100))
    ]
    assert count_rows(files, "train") == 3
    assert count_rows(files, "train", "test") == 7


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        *(
            (lambda m, v=version: m.update(schema_version=v), "schema_version: ")
            for version in (0, 1, 2, 3, 5, "four", None)
        ),
        (lambda m: m["counts"].update(users=-1), "counts.users"),
        (lambda m: m["counts"].update(users=2), "counts.users is 2, but the files hold 1"),
        (lambda m: m["counts"].update(items=10**12), "counts.items"),
        (lambda m: m["counts"].update(interactions=3), "counts.interactions is 3, but the files hold 2"),
        (lambda m: m["counts"].update(train=1, valid=1), "counts.train is 1, but the files hold 2"),
        (lambda m: m["sequences"].update(rows=10**12), "but the files hold 1"),
        (lambda m: m["sequences"].update(length=0), "sequences.length"),
        (lambda m: m["sequences"].update(length=10**9), "sequences.length"),
        (lambda m: m["lanes"].update(users=[1, 1]), "lanes.users holds 2 in all, but there are 1"),
        (lambda m: m["lanes"].update(train=[0, 0]), "lanes.train holds 0 in all, but there are 2"),
        (lambda m: m["lanes"].update(sequences=[1, 1]), "lanes.sequences holds 2 in all, but there are 1"),
        (lambda m: m["lanes"].update(users=[2, -1]), "lanes.users.1"),
        (lambda m: m["lanes"].update(users=[0, 1, 0]), "3 lanes are not a power of two"),
        (lambda m: m["lanes"].update(users=[]), "0 lanes are not a power of two"),
        (lambda m: m["lanes"].update(train=[2]), "different numbers of lanes"),
        (lambda m: m["lanes"].update(groups=0), "lanes.groups"),
        (lambda m: m["lanes"].update(groups=4), "2 lanes cannot form 4 groups"),
        (
            lambda m: m["lanes"].update(
                dict.fromkeys(("users", "train", "sequences"), [0] * 4) | {"groups": 3}
            ),
            "4 lanes cannot form 3 groups",
        ),
        (lambda m: m["files"].pop(0), "users.parquet is not among the files"),
        (lambda m: m["files"].append(m["files"][0]), "a file is listed twice"),
        (lambda m: m["files"][3].update(rows=-1), "files.3.rows"),
        (lambda m: m["files"][3].update(name="train/../../x"), "'train/../../x' is not the name of a shard"),
        (lambda m: m["files"][3].update(name="/etc/passwd"), "'/etc/passwd' is not the name of a shard"),
        (lambda m: m["files"][3].update(name="other/00000.parquet"), "is not the name of a shard"),
        (lambda m: m["files"][3].update(name="train/" + "x" * 300), "is not the name of a shard"),
        (lambda m: m["files"][3].update(name="train/1.parquet"), "is not the name of a shard"),
        (lambda m: m["split"].update(test_fraction=float("nan")), "split.test_fraction"),
        (lambda m: m["source"].update(min_rating=float("inf")), "min_rating"),
    ],
)
def test_what_cannot_be_is_refused(change, problem):
    content = json.loads(TEXT)
    change(content)
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(content)
    assert problem in explain(caught.value)
