"""Splits that the names of a source's files tell."""

from __future__ import annotations

import pytest

from adar_ray.data.given_split import given_splits, split_in
from adar_ray.errors import AdarError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("ml.valid.inter", "valid"),
        ("test-00001-of-00004.parquet", "test"),
        ("train1.txt", "train"),
        ("val/part-0.csv", "valid"),
        ("x_dev.tsv", "valid"),
        ("latest.csv", None),
        ("contest.csv", None),
        ("train_test.csv", None),
    ],
)
def test_a_word_of_its_own(name, split):
    assert split_in(name) == split


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "test.csv"], ["train", "test"]),
        (["x.train.inter", "x.validation.inter", "x.test.inter"], ["train", "valid", "test"]),
        (["train/0.csv", "train/1.csv", "test/0.csv"], ["train", "train", "test"]),
        (["ratingstrain.csv", "ratingstest.csv"], ["train", "test"]),
        (["train.csv", "other.csv", "test.csv"], ["train", None, "test"]),
        (["train.csv"], [None]),
        (["test-1.csv", "test-2.csv"], [None, None]),
        (["latest.csv", "earliest.csv"], [None, None]),
    ],
)
def test_files_of_a_source(names, splits):
    assert given_splits(names) == splits


@pytest.mark.parametrize("names", [["train_test.csv", "train.csv"], ["train/test.csv", "train/train.csv"]])
def test_a_name_of_two_splits(names):
    with pytest.raises(AdarError, match="tells of test and train"):
        given_splits(names)
