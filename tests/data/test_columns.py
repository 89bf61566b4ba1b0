"""Columns of a file by their usual names, or by the names that are given."""

from __future__ import annotations

import pytest

from adar_ray.data.columns import match_columns
from adar_ray.errors import AdarError


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["user", "item"], {"user": "user", "item": "item"}),
        (["User ID", "MOVIE-ID", "Time"], {"user": "User ID", "item": "MOVIE-ID", "timestamp": "Time"}),
        (["item", "item_id", "uid", "rating"], {"user": "uid", "item": "item_id", "rating": "rating"}),
    ],
)
def test_usual_names(names, columns):
    assert match_columns("f", names, None) == columns


def test_given_names_win():
    names = ["user", "item", "who"]
    assert match_columns("f", names, {"user": "who"}) == {"user": "who", "item": "item"}


def test_duplicate_column():
    with pytest.raises(AdarError, match="f: column 'item' appears twice; its columns are user, item, item"):
        match_columns("f", ["user", "item", "item"], None)


def test_a_column_is_not_two_things():
    with pytest.raises(AdarError, match="f: column 'a' cannot be both user and item; see --columns"):
        match_columns("f", ["a", "b"], {"user": "a", "item": "a"})
    with pytest.raises(AdarError, match="f: column 'b' cannot be both item and timestamp"):
        match_columns("f", ["a", "b"], {"user": "a", "item": "b", "timestamp": "b"})
    columns = {"user": "user", "item": "item", "rating": "rating", "weight": "rating"}
    assert match_columns("f", ["user", "item", "rating"], {"weight": "rating"}) == columns
