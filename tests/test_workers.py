"""How many workers a training asks for."""

from __future__ import annotations

import pytest

from adar_ray.documents import parse_yaml, to_yaml
from adar_ray.errors import AdarError
from adar_ray.workers import WorkerRange


@pytest.mark.parametrize(
    ("asked", "least", "most", "again"),
    [(0, 0, 0, 0), (3, 3, 3, 3), ("3", 3, 3, 3), ("1:4", 1, 4, "1:4"), ("2:2", 2, 2, 2)],
)
def test_numbers_and_ranges(asked, least, most, again):
    found = WorkerRange.parse(asked)
    assert found == (least, most)
    assert found.asked == again
    assert WorkerRange.parse(found.asked) == found


@pytest.mark.parametrize(
    "asked", ["0:2", "4:1", "a:b", "1:", ":4", "1:2:3", "-1", -1, "", "1.5", "٣", "1:4\n", 1e9, "9" * 5000]
)
def test_what_is_neither_is_refused(asked):
    with pytest.raises(AdarError, match=r"^workers\.number .*such as 1:4$") as caught:
        WorkerRange.parse(asked, "workers.number")
    assert len(str(caught.value)) < 200


def test_a_range_in_a_file_is_no_number_to_the_base_60():
    assert parse_yaml("number: 1:4", "job") == {"number": "1:4"}
    assert parse_yaml(to_yaml({"number": "1:4"}), "job") == {"number": "1:4"}
