"""Different spellings of the same id."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from adar_ray.data.keys import UNKNOWN, KeyTable, numbers_of, unify_numbers
from adar_ray.errors import AdarError


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        (["12", "7", "12.0", "100.", "7.00"], ["7", "12", "100"]),
        (["12.0", "7.0"], ["7", "12"]),
        (["b", "a", "10", "9"], ["9", "a", "b", "10"]),
        (["12", "12.0", "v2"], ["12", "v2", "12.0"]),  # not a column of numbers
        (["007", "7"], ["7", "007"]),
        (["-1.0", "1"], ["1", "-1"]),
    ],
)
def test_keys(written, keys):
    unified, position = unify_numbers("user", pa.array(written))
    assert unified.to_pylist() == keys
    numbers = len(keys) < len(written) or keys == ["7", "12"] or "-1" in keys
    for key, at in zip(written, position, strict=True):
        assert keys[at] == key or (numbers and float(keys[at]) == float(key))


@pytest.mark.parametrize("odd", ["12.5", "1e5", "1.2e+09", ".5"])
def test_numbers_that_are_not_whole(odd):
    with pytest.raises(AdarError, match=f"the item '{odd.replace('+', '.')}' is not a whole number"):
        unify_numbers("item", pa.array(["12", odd]))


def test_ids_of_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [["b", "a"], ["10", "b"], [], ["9", "a", "c"], ["10"]]
    for pending in (0, 3, 100):
        monkeypatch.setattr("adar_ray.data.keys._PENDING", pending)
        table = KeyTable("user", "file")
        for block in blocks:
            table.add(pa.array(block, pa.string()))
        keys = table.finish()
        assert keys.keys.to_pylist() == ["9", "a", "b", "c", "10"]
        found = [[keys.keys[position].as_py() for position in positions] for positions in keys.positions]
        assert found == blocks


def test_a_key_has_the_number_of_the_same_key_among_others() -> None:
    keys, among = pa.chunked_array([["c", "x"], ["a"]]), pa.chunked_array([["a"], ["b", "c"]])
    assert numbers_of(keys, among).tolist() == [2, UNKNOWN, 0]


@pytest.mark.stress
def test_ids_of_more_than_two_gibibytes() -> None:
    table = KeyTable("item", "log.csv")
    for start in range(0, 2_300_000, 100_000):
        number = pa.array(range(start, start + 100_000)).cast(pa.string())
        table.add(pc.binary_join_element_wise(number, "x" * 1000, ""))
    with pytest.raises(AdarError, match=r"^log.csv: the ids of its items take more than 2 GiB together"):
        table.finish()
