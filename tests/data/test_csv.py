"""CSV against Python's own reader, and what is not CSV."""

from __future__ import annotations

import csv
import io
import random

import pyarrow as pa
import pytest

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.formats import FORMATS
from adar_ray.data.formats import csv as csv_format
from adar_ray.data.readers import FileReader
from adar_ray.data.sources import find_source
from tests.data.reading import error_of, read, write


def records_of(path: str, block: int) -> list[tuple]:
    columns = {"user": "a", "item": "b"}
    bad = BadRows(path)
    batches = FORMATS["csv"].read(path, columns, block, bad)
    return [
        (place, user, item)
        for batch, places in batches
        for place, user, item in zip(
            places.tolist(), batch["user"].to_pylist(), batch["item"].to_pylist(), strict=True
        )
    ]


@pytest.mark.parametrize("seed", range(4))
def test_what_python_writes(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(csv_format, "_SMALLEST_BLOCK", 1)  # so that many chunks end within a record
    draw = random.Random(seed)
    pieces = ["x", "é", ",", '"', '""', "-", "long text"] + (["\n", "\r\n"] if seed % 2 else [])
    rows = [["a", "b", "text"]]
    for _ in range(300):
        ids = ["".join(draw.choices(["x", "é", ",", '"', "y"], k=draw.randrange(1, 5))) for _ in range(2)]
        rows.append([*ids, "".join(draw.choices(pieces, k=draw.randrange(6)))])
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if seed > 1 else csv.QUOTE_MINIMAL
    csv.writer(text, quoting=quoting, lineterminator="\n").writerows(rows)
    path = write(tmp_path / "x.csv", text.getvalue())
    for block in (1, 64, 1 << 20):
        found = records_of(path, block)
        assert [tuple(row[1:]) for row in found] == [tuple(row[:2]) for row in rows[1:]]
    reader = csv.reader(io.StringIO(text.getvalue(), newline=""))
    starts = [1]
    for _ in reader:
        starts.append(reader.line_num + 1)
    if seed % 2 == 0:  # Python counts a carriage return within quotes as a line end
        assert [row[0] for row in found] == starts[1:-1]


def test_spaces_count_within_quotes_alone(tmp_path):
    content = 'user, item\n a ,b\na," b "\n"a" , "b"\n a\t,\tb\n'
    assert [row[:2] for row in read(write(tmp_path / "x.csv", content))] == [
        ("a", "b"),
        ("a", " b "),
        ("a", "b"),
        ("a", "b"),
    ]


def test_bad_rows_are_skipped_up_to_a_limit(tmp_path):
    content = 'user,item,time\na,b,1\na,"Heroes,2\nc,d,3\ne,f\nnan,g,4\ng,h,never\ni,"X,5\nj,k,6\n'
    source = write(tmp_path / "x.csv", content)
    assert error_of(source, max_bad_rows=4).startswith(
        f"{source}: more than 4 bad rows; line 3: not valid CSV"
    )
    (file,) = find_source(source, options=_options(max_bad_rows=5)).files
    reader = FileReader(file)
    table = pa.concat_tables(reader.tables())
    assert table.select(["user", "item"]).to_pylist() == [
        {"user": "a", "item": "b"},
        {"user": "c", "item": "d"},
        {"user": "j", "item": "k"},
    ]
    assert table["row"].to_pylist() == [0, 1, 2]
    assert sorted((row.place, row.problem.partition(" (")[0]) for row in reader.bad.rows) == [
        ("line 3", "not valid CSV"),
        ("line 5", "expected 3 fields, found 2"),
        ("line 6", "the user 'nan' stands for no value"),
        ("line 7", "the timestamp 'never' is not a time: a number of s, ms, us or ns since 1970, "
         "not negative, or an ISO date"),
        ("line 8", "not valid CSV"),
    ]  # fmt: skip


def _options(**options):
    from adar_ray.data.options import ReadOptions

    return ReadOptions(**options)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_bad_encoding_is_skipped_where_it_matters(tmp_path, name):
    separator = b"," if name == "x.csv" else b"\t"
    lines = [b"user,item,text", b"a,b,c", b"a,\xff,d", b"e,f,g"]
    source = write(tmp_path / name, b"\n".join(lines).replace(b",", separator) + b"\n")
    assert "line 3: not UTF-8" in error_of(source)
    assert [row[:2] for row in read(source, max_bad_rows=1)] == [("a", "b"), ("e", "f")]
    assert read(source, encoding="latin-1")[1][:2] == ("a", "ÿ")


def test_a_quote_that_is_never_closed_does_not_take_all_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_format, "_LONGEST_RECORD", 1000)
    source = write(tmp_path / "x.csv", 'user,item\na,b\nc,"d\n' + "e,f\n" * 100_000)
    assert "line 3: not valid CSV (a quote is not closed)" in error_of(source)
    assert len(read(source, max_bad_rows=1)) == 100_001


# Headers.


@pytest.mark.parametrize(
    ("lines", "columns", "rows"),
    [
        (["1,10,pv,99", "2,20,pv,98"], {"user": "1", "item": "2", "timestamp": "4"}, ["1-10", "2-20"]),
        # The first line's own values name columns, too: that is what the message before showed.
        (["7,10,pv,99", "2,20,pv,98"], {"user": "7", "item": "10"}, ["7-10", "2-20"]),
        (["id_user,id_item,2020", "u,i,5"], {"user": "id_user", "item": "id_item"}, ["u-i"]),
        (["user,item,2020", "u,i,5"], {"rating": "2020"}, ["u-i"]),
    ],
)
def test_header_or_not(tmp_path, lines, columns, rows):
    source = write(tmp_path / "x.csv", "\n".join(lines) + "\n")
    assert [f"{user}-{item}" for user, item, *_ in read(source, columns=columns)] == rows


@pytest.mark.parametrize(
    ("lines", "columns", "parts"),
    [
        (["1,10", "2,20"], None, ["line is data (1, 10)", "--columns user=1,item=2", "--header first"]),
        (["0,1,2", "2,20,5"], {"user": "0", "item": "1"}, ["may be data or not", "--header first or none"]),
        (["al,x", "al,y"], {"user": "al", "item": "x"}, ["repeats further down", "--header none"]),
        (["al,x", "bo,y"], None, ["no column for the user among al, x", "--header none"]),
        (["3,20,5", "2,20,5"], {"user": "3", "item": "2"}, ["names 3", "number of", "--header none"]),
        (["user;item", "a;b"], None, ["no column for the user among user;item", "pass --separator ';'"]),
        (["user\titem", "a\tb"], None, [r"pass --separator '\t'"]),
    ],
)  # fmt: skip
def test_headers_that_could_be_data(tmp_path, lines, columns, parts):
    message = error_of(write(tmp_path / "x.csv", "\n".join(lines) + "\n"), columns=columns)
    assert all(part in message for part in parts), message


def test_given_header(tmp_path):
    source = write(tmp_path / "x.csv", "al,x\nal,y\n")
    columns = {"user": "1", "item": "2"}
    assert [row[:2] for row in read(source, columns=columns, header="none")] == [("al", "x"), ("al", "y")]
    source = write(tmp_path / "y.csv", "0,1\nal,y\n")
    columns = {"user": "0", "item": "1"}
    assert [row[:2] for row in read(source, columns=columns, header="first")] == [("al", "y")]


# Separators.


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        ('user;item;rating\na;"b;c";4\n', ";"),
        ("user|item|rating\na|b;c|4\n", "|"),
        ("user::item::rating\na::b;c::4\n", "::"),
        ("user\titem\trating\na\tb;c\t4\n", "\t"),
        ("user item rating\na  b;c \t4\n", " "),
    ],
)
def test_separators(tmp_path, content, separator):
    source = write(tmp_path / "x.txt", content)
    assert read(source, separator=separator) == [("a", "b;c", 4.0, 0)]


def test_options_that_mean_nothing(tmp_path):
    source = write(tmp_path / "x.jsonl", '{"user": 1, "item": 2}\n')
    assert "--separator ',': means nothing to the format jsonl" in error_of(source, "jsonl", separator=",")
    assert "--header 'none': means nothing to the format jsonl" in error_of(source, header="none")
    for option, value in [
        ("encoding", "klingon"),
        ("encoding", "base64"),
        ("separator", ""),
        ("header", "x"),
    ]:
        assert f"--{option} {value}" in error_of(source, **{option: value}).replace("''", "")
