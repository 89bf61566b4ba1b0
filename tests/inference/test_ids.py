"""Ids in the forms that callers have them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from adar_ray.errors import AdarError
from adar_ray.inference.ids import is_one, key_of, keys_of


@pytest.mark.parametrize(
    ("one", "key"),
    [
        ("007", "007"),
        ("1.0", "1.0"),
        (196, "196"),
        (196.0, "196"),
        (19.5, "19.5"),
        (b"196", "196"),
        ("日本".encode(), "日本"),
        (np.int64(196), "196"),
        (np.float32(196), "196"),
        (np.str_("ann"), "ann"),
        (np.bytes_(b"ann"), "ann"),
        (np.array(196), "196"),
        (torch.tensor(196), "196"),
    ],
)
def test_one_id(one: Any, key: str) -> None:
    assert is_one(one)
    assert key_of(one) == key
    assert keys_of("user", [one, one]) == [key, key]
    with pytest.raises(AdarError, match="is one item; give a list of items"):
        keys_of("item", one)


def test_several_ids() -> None:
    several = [
        ["1", "2"],
        ("1", "2"),
        {1: "a", 2: "b"},
        np.arange(1, 3),
        torch.arange(1, 3),
        np.array([1.0, 2.0]),
    ]
    for ids in several:
        assert not is_one(ids)
        assert keys_of("user", ids) == ["1", "2"]
    assert keys_of("user", iter("ab")) == ["a", "b"]
    assert keys_of("user", pa.array(["a", "b"])) == ["a", "b"]
    for table in (pa.table({"user": ["1"]}), pd.DataFrame({"user": ["1"]})):
        with pytest.raises(AdarError, match="is a table; give the column of users"):
            keys_of("user", table)
    for several in (["1", "2"], (1, 2), {"1", "2"}, [], np.array([1, 2]), torch.zeros(2)):
        with pytest.raises(AdarError, match="stands where one user should be; give the id of one"):
            keys_of("user", ["1", several])
    for rows in (np.array([[1, 2], [3, 4]]), torch.zeros(2, 2)):
        with pytest.raises(AdarError, match="stands where one user should be"):
            keys_of("user", rows)
    for ids in (None, object()):
        with pytest.raises(AdarError, match="is no list of users"):
            keys_of("user", ids)
