"""Which files of a source are read, in which format and with which columns."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from adar_ray.data.formats import FORMATS
from adar_ray.data.formats.base import Match
from adar_ray.data.sources import find_source
from adar_ray.errors import AdarError
from tests.data.reading import INTER, ORIGINALS, error_of, find_files, read, read_tables, rows_of, write

AMAZON = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}


def names(source: Path | str, format: str | None = None) -> list[str]:
    return [Path(file.path).name for file in find_files(str(source), format)]


def test_folders_of_published_data_sets(tmp_path):
    data = ORIGINALS["ml-100k"][1]
    for name in ("u.data", "u.item", "u.user", "u1.base", "u1.test", "README", ".hidden.csv"):
        write(tmp_path / "ml-100k" / name, data)
    for name in ("ratings.dat", "movies.dat", "users.dat", "README"):
        write(tmp_path / "ml-1m" / name, ORIGINALS["ml-1m"][1])
    for name in ("ratings.csv", "movies.csv", "tags.csv", "links.csv", "README.txt"):
        write(tmp_path / "ml-20m" / name, ORIGINALS["ml-csv"][1])
    for name in ("ml.inter", "ml.item", "ml.user"):
        write(tmp_path / "recbole" / name, INTER)
    for name in ("train.txt", "test.txt", "valid.txt"):
        write(tmp_path / "lightgcn" / name, "0 1 2\n1 2\n")
    for name in ("user_list.txt", "item_list.txt"):
        write(tmp_path / "lightgcn" / name, "org_id remap_id\nabc 0\n")
    assert names(tmp_path / "ml-100k") == ["u.data"]
    assert names(tmp_path / "ml-1m") == ["ratings.dat"]
    assert names(tmp_path / "ml-20m") == ["ratings.csv"]
    assert names(tmp_path / "recbole") == ["ml.inter"]
    assert names(tmp_path / "lightgcn") == names(tmp_path / "lightgcn", "user-items")
    files = find_files(str(tmp_path / "lightgcn") + "/")
    assert [(Path(file.path).name, file.format.name, file.split) for file in files] == [
        ("test.txt", "user-items", "test"),
        ("train.txt", "user-items", "train"),
        ("valid.txt", "user-items", "valid"),
    ]


def test_folder_of_parts_and_globs(tmp_path, monkeypatch):
    for name in ("a/part-1.csv.gz", "a/part-0.csv.gz", "a/_SUCCESS", "a/README.txt", "b/part-2.csv.gz"):
        write(tmp_path / name, gzip.compress(b"user,item\na,b\n") if name.endswith(".gz") else b"")
    assert names(tmp_path / "a") == ["part-0.csv.gz", "part-1.csv.gz"]
    assert names(tmp_path / "a" / "*.csv.gz") == ["part-0.csv.gz", "part-1.csv.gz"]
    assert names(tmp_path / "*" / "part-[12]*") == ["part-1.csv.gz", "part-2.csv.gz"]
    assert names(f"file://{tmp_path}/a/part-?.csv.gz") == ["part-0.csv.gz", "part-1.csv.gz"]
    monkeypatch.chdir(tmp_path / "a")
    assert [file.path for file in find_files("*1.csv.gz")] == [str(tmp_path / "a" / "part-1.csv.gz")]


def test_files_that_begin_with_an_underscore(tmp_path):
    for name in ("part.csv", "_more.csv", "_SUCCESS", "_metadata", ".part.csv.crc", "_temporary/part.csv"):
        write(tmp_path / name, "user,item\na,b\n")
    source = find_source(str(tmp_path))
    assert [Path(file.path).name for file in source.files] == ["part.csv"]
    assert source.left_out == ["_more.csv"]
    (tmp_path / "part.csv").unlink()
    with pytest.raises(AdarError, match="name the file itself"):
        find_source(str(tmp_path))


def test_file_names_of_any_alphabet(tmp_path):
    for name in ("данные [1].csv", "データ 100%.csv"):
        source = write(tmp_path / name, "user,item\na,b\n")
        assert read(source) == [("a", "b", None, 0)]
    for file in find_files(f"file://{tmp_path}"):
        assert rows_of(file) == [("a", "b", None, 0)]


def test_parts_share_the_columns_of_the_first(tmp_path):
    write(tmp_path / "0.csv", "user,item,time\na,b,1\n")
    write(tmp_path / "1.csv", "user,item\na,b\n")
    message = error_of(str(tmp_path))
    assert "1.csv" in message
    assert "no column 'time'" in message


def test_given_columns(tmp_path):
    record = '{"reviewerID": "A1", "asin": "0000013714", "overall": 5.0, "unixReviewTime": 1393545600}\n'
    source = write(tmp_path / "reviews.json.gz", gzip.compress(record.encode()))
    assert read(source, columns=AMAZON) == [("A1", "0000013714", 5.0, 1393545600)]
    without_rating = {"user": "reviewerID", "item": "asin"}
    assert read(source, columns=without_rating) == [("A1", "0000013714", None, 1393545600)]


@pytest.mark.parametrize(
    ("files", "source", "parts"),
    [
        ({}, "nothing.csv", ["nothing.csv", "no such file or folder"]),
        ({}, "no/*.csv", ["no/*.csv", "no such file or folder"]),
        ({"a.csv": "user,item\n"}, "*.tsv", ["*.tsv", "no file there"]),
        ({"README.md": "x"}, "", ["no file of interactions"]),
        ({"x.csv": ""}, "x.csv", ["x.csv", "empty"]),
        ({"x.jsonl": "\n\n"}, "x.jsonl", ["x.jsonl", "empty"]),
        ({"x.txt.gz": gzip.compress(b"")}, "x.txt.gz", ["x.txt.gz", "empty"]),
        ({"u.txt": "1 2\n3 4\n"}, "u.txt", ["u.txt", "between user-items and pairs", "--format"]),
        ({"train.txt": "1 2\n1 4\n"}, "train.txt", ["train.txt", "between user-items and pairs"]),
        ({"x.txt": "Dear reader, hello\n"}, "x.txt", ["x.txt", "cannot tell its format", "ml-100k"]),
        ({"a.csv": "user,item\na,b\n", "b.tsv": "user\titem\na\tb\n"}, "", ["a.csv (csv)", "b.tsv (tsv)"]),
        ({"u.data": "1\t2\t3\t4\n", "x.inter": INTER}, "", ["several sources", "inter, ml-100k"]),
        ({"a.csv": "user,item\na,b\n", "a.csv.gz": b"x"}, "", ["a.csv", "compressed and not"]),
        ({"x.csv": 'user,"item\na,b\n'}, "x.csv", ["x.csv: line 1", "quote"]),
        ({"x.csv": "who,what\na,b\n"}, "x.csv", ["no column for the user", "who, what", "--columns user="]),
        (
            {"x.inter": "user_id:token\titem_id:token\titem_id:token\na\tb\tc\n"},
            "x.inter",
            ["'item_id'", "twice"],
        ),
        ({"x.parquet": "PAR1 but not really"}, "x.parquet", ["x.parquet", "not a Parquet file"]),
        (dict.fromkeys(("dataset.json", "items.parquet", "users.parquet"), ""), "", ["is prepared already"]),
    ],
)
def test_bad_sources(tmp_path, files, source, parts):
    for name, content in files.items():
        write(tmp_path / name, content)
    message = error_of(str(tmp_path / source))
    assert all(part in message for part in parts), message


def test_bad_arguments(tmp_path):
    source = write(tmp_path / "x.csv", "user,item\na,b\n")
    assert "unknown format 'xml'" in error_of(source, "xml")
    assert "unknown key 'usr'" in error_of(source, columns={"usr": "user"})
    for option, value in (("timestamp_unit", "s"), ("timestamp_format", "%Y-%m-%d")):
        flag = f"--{option.replace('_', '-')}"
        assert f"x.csv: {flag} needs times, and no column among user, item" in error_of(
            source, **{option: value}
        )
    lines = write(tmp_path / "x.jsonl", '{"who": "a", "what": "b"}\n')
    assert error_of(lines).endswith("--columns user=reviewerID,item=asin,timestamp=unixReviewTime")
    message = error_of(source, columns={"user": "reviewerID"})
    assert "no column 'reviewerID'" in message
    assert "user, item" in message


def test_file_deleted_after_it_was_found(tmp_path):
    (file,) = find_files(write(tmp_path / "x.csv", "user,item\na,b\n"))
    Path(file.path).unlink()
    with pytest.raises(AdarError, match="no such file or folder"):
        list(read_tables(file))


# Recognition.


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_sure_names_belong_to_one_format(format):
    for name in (pattern.replace("*", "x") for pattern in format.sure_names):
        assert next(other for other in FORMATS.values() if other.has_sure_name(name)) is format


@pytest.mark.parametrize(
    ("name", "lines", "user_items", "pairs"),
    [
        ("train.txt", ["1 2 3", "4 5"], Match.CERTAIN, Match.NO),
        ("any.txt", ["1 2 3", "4 5"], Match.CERTAIN, Match.NO),
        ("train.txt", ["1 2", "3 4"], Match.CERTAIN, Match.NO),
        ("any.txt", ["1 2", "1 4"], Match.NO, Match.CERTAIN),
        ("any.txt", ["1 2", "3 4"], Match.POSSIBLE, Match.POSSIBLE),
        ("train.txt", ["1 2", "1 4"], Match.POSSIBLE, Match.POSSIBLE),
        ("train.txt", ["a 2", "b 4"], Match.NO, Match.NO),
    ],
)
def test_lines_of_numbers(name, lines, user_items, pairs):
    assert FORMATS["user-items"].recognize(name, lines) is user_items
    assert FORMATS["pairs"].recognize(name, lines) is pairs


def test_a_small_file_of_one_endless_line_is_refused_soon(tmp_path):
    path = tmp_path / "pairs.csv.gz"
    path.write_bytes(gzip.compress(b"user,item\n" + bytes([97]) * (65 << 20), 1))
    assert "pairs.csv.gz: line 2: longer than 67,108,864 bytes" in error_of(str(path))
