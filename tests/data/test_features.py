"""Features of items: read from a file, kept in the dataset, numbered."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adar_ray.data.dataset import Dataset
from adar_ray.data.prepare import prepare
from adar_ray.data.vocabulary import Vocabulary
from adar_ray.errors import AdarError

ROWS = "user,item\nann,a\nann,b\nann,c\nbob,a\nbob,b\nbob,c\n"
CSV = "item,title,genres,year,made in\na,A,Drama| War |Drama,1990,NULL\nb,B,,2000,fr\nz,Z,Drama,1,fr\na,,,,\n"
WANTED = {"a": (["Drama", "War"], 1990.0, None), "b": (None, 2000.0, ["fr"]), "c": (None, None, None)}


def features(dataset: Dataset) -> dict[str, tuple[object, ...]]:
    table = dataset.item_features()
    assert table is not None
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return dict(zip(dataset.item_keys().to_pylist(), rows, strict=True))


def make(folder: Path, name: str, content: str, **options: object) -> Dataset:
    (folder / "rows.csv").write_text(ROWS)
    (folder / name).write_text(content)
    return prepare(folder / "rows.csv", folder / "data", items=folder / name, replace=True, **options)


def test_a_csv_holds_categories_and_numbers(tmp_path: Path) -> None:
    dataset = make(tmp_path, "about.csv", CSV)
    assert features(dataset) == WANTED
    assert dataset.read_file("features.parquet").num_rows == 2  # of the items that have some
    assert [note for note in dataset.manifest.notes if "about.csv" in note] == [
        "features of items in about.csv: genres (2 categories), year (numbers), made in (1 category)",
        "1 item has several rows in about.csv; the first of each was kept",
        "about.csv has no features for 1 of 3 items",
        "left out 1 row of about.csv whose item the dataset does not have",
    ]
    before = (tmp_path / "data/features.parquet").read_bytes()
    make(tmp_path, "about.csv", CSV)
    assert (tmp_path / "data/features.parquet").read_bytes() == before


def test_other_formats_hold_the_same(tmp_path: Path) -> None:
    lines = [
        {"item": "a", "title": "A", "genres": [["War"], ["Drama"]], "year": 1990, "made in": None},
        {"item": "b", "genres": [], "year": 2000.0, "made in": "fr"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert features(make(tmp_path, "about.jsonl", text)) == WANTED
    recbole = (
        "item_id:token\tgenres:token_seq\tyear:float\tmade in:token\na\tWar Drama\t1990\t\nb\t\t2000\tfr\n"
    )
    assert features(make(tmp_path, "about.item", recbole)) == WANTED
    columns = {"genres": [["War", "Drama"], []], "year": [1990, 2000], "made in": [None, "fr"]}
    pq.write_table(pa.table({"item": ["a", "b"], **columns}), tmp_path / "about.parquet")
    dataset = prepare(
        tmp_path / "rows.csv", tmp_path / "data", items=tmp_path / "about.parquet", replace=True
    )
    assert features(dataset) == WANTED


def test_columns_are_chosen_and_kinds_are_given(tmp_path: Path) -> None:
    dataset = make(tmp_path, "about.csv", CSV, item_columns={"year": "categories", "title": "categories"})
    assert features(dataset) == {"a": (["1990"], ["A"]), "b": (["2000"], ["B"]), "c": (None, None)}


@pytest.mark.parametrize(
    ("content", "columns", "problem"),
    [
        (
            CSV,
            {"colour": "categories"},
            "no column 'colour' of features; its columns are item, title, genres",
        ),
        (CSV, {"year": "float"}, "--item-columns year=float: give one of categories, number"),
        (CSV, {"genres": "number"}, "line 2: the genres ['Drama', 'War'] is not a number up to 1e+15"),
        (CSV.replace("2000", "soon"), {"year": "number"}, "line 3: the year ['soon'] is not a number"),
        ("item,title\na,A\n", None, "no column of features beside item, title"),
        ("name,genres\na,A\n", None, "no column for items among name, genres; call it item"),
        ("item,kind\ny,1\n", None, "has no row of any item; its column 'item' has to hold ids"),
        ("item,kind\n,1\n", None, "line 2: the item is missing"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, content: str, columns: dict[str, str] | None, problem: str
) -> None:
    with pytest.raises(AdarError) as error:
        make(tmp_path, "about.csv", content, item_columns=columns)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_bad_rows_are_skipped_and_listed(tmp_path: Path) -> None:
    text = CSV.replace("2000", "soon")
    dataset = make(tmp_path, "about.csv", text, item_columns={"year": "number"}, max_bad_rows=1)
    assert features(dataset) == {"a": (1990.0,), "b": (None,), "c": (None,)}
    (bad,) = (tmp_path / "data/bad_rows.jsonl").read_text().splitlines()
    assert json.loads(bad)["line"] == 3


def test_a_vocabulary_numbers_features_and_knows_the_rest(tmp_path: Path) -> None:
    table = make(tmp_path, "about.csv", CSV).item_features()
    vocabulary = Vocabulary.of(table)
    keys = ['["genres", "Drama"]', '["genres", "War"]', '["year", null]', '["made in", "fr"]']
    assert vocabulary.keys().to_pylist() == keys
    rows = vocabulary.encode(table)
    assert rows.start.tolist() == [0, 3, 5, 5]
    assert rows.feature_E.tolist() == [0, 1, 2, 2, 3]
    assert rows.value_E.tolist() == [0.5, 0.5, -1, 1, 1]  # the mean is 1995, the standard deviation 5
    other = pa.table({"genres": pa.array([["Opera", "War"], None]), "year": [2010.0, None]})
    rows = vocabulary.encode(other)
    assert rows.start.tolist() == [0, 2, 2]
    assert rows.feature_E.tolist() == [1, 2]
    assert rows.value_E.tolist() == [1, 3]
    assert {name: values.to_pylist() for name, values in rows.unknown.items()} == {"genres": ["Opera"]}


@pytest.mark.parametrize("numbers", [[0.1] * 150, [0.3, 0.1 + 0.2] * 50, [7.0], [0.0, 0.0]])
def test_numbers_that_are_all_equal_keep_their_unit(numbers: list[float]) -> None:
    vocabulary = Vocabulary.of(pa.table({"price": numbers}))
    rows = vocabulary.encode(pa.table({"price": [numbers[0] + 0.5]}))
    assert rows.value_E.tolist() == pytest.approx([0.5])
