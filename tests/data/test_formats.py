"""Every source format: exact rows of small files in the publisher's form, and errors for bad ones."""

from __future__ import annotations

import bz2
import datetime
import gzip
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from adar_ray.data.formats import FORMATS
from tests.data.reading import (
    INTER,
    ORIGINALS,
    RATINGS,
    error_of,
    find_files,
    read,
    read_tables,
    write,
    write_parquet,
)

REAL = Path(__file__).parents[3] / "shared" / "data"


def test_every_format_has_a_test():
    assert set(FORMATS) == {*ORIGINALS, "parquet"}


@pytest.mark.parametrize("format", ORIGINALS)
def test_original_file(tmp_path, format):
    name, content, rows = ORIGINALS[format]
    source = write(tmp_path / name, content)
    (file,) = find_files(source)
    assert (file.path, file.format.name) == (source, format)
    assert file.split is None  # one file is no split, whatever its name
    assert file.has_rating == (rows[0][2] is not None)
    assert file.has_time == (format not in ("user-items", "pairs", "tsv"))
    assert read(source) == rows
    assert read(source, format) == rows


@pytest.mark.parametrize("format", ORIGINALS)
def test_crlf_bom_blank_lines_and_no_last_newline(tmp_path, format):
    name, content, rows = ORIGINALS[format]
    dressed = "\ufeff" + content.rstrip("\n").replace("\n", "\r\n\r\n")
    assert read(write(tmp_path / name, dressed)) == rows


@pytest.mark.parametrize("format", ORIGINALS)
def test_gzip(tmp_path, format):
    name, content, rows = ORIGINALS[format]
    assert read(write(tmp_path / f"{name}.gz", gzip.compress(content.encode()))) == rows


def test_zstd_and_bzip2(tmp_path):
    with pa.output_stream(str(tmp_path / "u.data.zst"), compression="zstd") as stream:
        stream.write(ORIGINALS["ml-100k"][1].encode())
    assert read(str(tmp_path / "u.data.zst")) == RATINGS
    content = ORIGINALS["ml-csv"][1].encode()
    assert read(write(tmp_path / "ratings.csv.bz2", bz2.compress(content))) == RATINGS


UNUSUAL = ["юзер", "用户", "🎧🎸", "007", "7", "NAN2", "nullx", "1e5", "a\u00a0b", "\u3000x", "-1", "é"]


@pytest.mark.parametrize("name", ["x.inter", "x.csv", "x.tsv", "x.jsonl", "x.txt"])
def test_unusual_ids_are_kept(tmp_path, name):
    header, line = {
        "x.inter": ("user_id:token\titem_id:token\n", "{0}\ti{0}\n"),
        "x.csv": ("user,item\n", "{0},i{0}\n"),
        "x.tsv": ("user\titem\n", "{0}\ti{0}\n"),
        "x.jsonl": ("", '{{"user": "{0}", "item": "i{0}"}}\n'),
        "x.txt": ("", "{0} i{0}\n"),
    }[name]
    source = write(tmp_path / name, header + "".join(line.format(id) for id in UNUSUAL))
    rows = read(source, "pairs" if name == "x.txt" else None)
    assert [row[:2] for row in rows] == [(id, f"i{id}") for id in UNUSUAL]


def test_unusual_ids_of_user_items(tmp_path):
    source = write(tmp_path / "test.txt", "юзер 用户 007\n\n🎧 a\u00a0b\n")
    assert [row[:2] for row in read(source, "user-items")] == [
        ("юзер", "用户"),
        ("юзер", "007"),
        ("🎧", "a\u00a0b"),
    ]


def test_quotes_in_inter_are_part_of_ids(tmp_path):
    source = write(tmp_path / "x.inter", 'user_id:token\titem_id:token\n"a\tb"c\n')
    assert read(source) == [('"a', 'b"c', None, 0)]


def test_inter_ignores_other_columns(tmp_path):
    content = "city:token_seq\titem_id:token\tuser_id:token\nSão Paulo\ti\tu\n"
    assert read(write(tmp_path / "x.inter", content)) == [("u", "i", None, 0)]


def test_quoted_csv(tmp_path):
    content = 'user,item,review\n"a, b"," c ","two\nlines, ""quoted"""\nd,e f,"x"\n'
    assert read(write(tmp_path / "x.csv", content)) == [("a, b", " c ", None, 0), ("d", "e f", None, 1)]


def test_csv_of_many_blocks(tmp_path):
    lines = [f'{n},"i{n % 97}, ""{n}""","{"x" * 200}\n"' for n in range(8000)]
    (file,) = find_files(write(tmp_path / "x.csv", "user,item,text\n" + "\n".join(lines) + "\n"))
    tables = list(read_tables(file, block_bytes=1))
    assert len(tables) > 1
    assert pa.concat_tables(tables).equals(pa.concat_tables(read_tables(file)))
    assert pa.concat_tables(tables)["row"].to_pylist() == list(range(8000))


def test_text_of_many_blocks(tmp_path):
    content = "".join(f"{n} {n % 97}\n" * 2 for n in range(3000))
    (file,) = find_files(write(tmp_path / "x.txt", content))
    tables = list(read_tables(file, block_bytes=4096))
    assert len(tables) > 10
    assert max(table.nbytes for table in tables) < 8192
    assert pa.concat_tables(tables).equals(pa.concat_tables(read_tables(file)))


def test_a_quote_inside_a_csv_field_is_a_character(tmp_path):
    assert read(write(tmp_path / "x.csv", 'user,item\na,5" disk\n')) == [("a", '5" disk', None, 0)]


# Bad rows.


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.inter", INTER + "1\t2\t3\n", ["line 4", "expected 4 fields, found 3"]),
        ("x.inter", INTER + "\n1\t\t3\t4\n", ["line 5", "item is missing"]),
        ("x.inter", INTER + "1\t2\tgood\t4\n", ["line 4", "rating 'good' is not a number"]),
        ("x.inter", INTER + "1\t2\tnan\t4\n", ["line 4", "rating 'nan' is not a number"]),
        ("x.inter", INTER + "1\t2\t\t4\n", ["line 4", "rating is missing"]),
        ("x.inter", INTER + "1\t2\t3\t\n", ["line 4", "timestamp is missing"]),
        ("x.inter", INTER + "1\t2\t3\t-4\n", ["line 4", "timestamp '-4'", "negative"]),
        ("x.inter", INTER + "1\t2\t3\tinf\n", ["line 4", "timestamp 'inf'"]),
        ("x.inter", INTER + "1\t2\t3\t0x1F\n", ["line 4", "timestamp '0x1F'"]),
        ("x.inter", INTER.encode() + b"1\t\xff\t3\t4\n", ["line 4", "not UTF-8"]),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\tx\n", ["line 2", "timestamp 'x'"]),
        ("ratings.dat", "1::2::3::4\n" * 1000 + "1::2::3\n", ["line 1001", "expected 4 fields, found 3"]),
        ("ratings.dat", "1::2::3::4\n" * 1000 + "1::::3::4\n", ["line 1001", "item is missing"]),
        ("a.txt", "1 2\n1 3\n" * 500 + "1 2 3\n", ["line 1001", "expected 2 fields, found 3"]),
        ("a.txt", b"1 2\n1 3\n" * 500 + b"\xff 3\n", ["line 1001", "not UTF-8"]),
        (
            "train.txt",
            b"".join(b"%d 2 4\n" % n for n in range(1000)) + b"\xff 3\n",
            ["line 1001", "not UTF-8"],
        ),
        ("x.csv", "user,item\na,b\nc\n", ["line 3", "expected 2 fields, found 1"]),
        ("x.csv", 'user,item,text\na,b,"c\nd"\n\ne,,"f\n"\n', ["line 5", "item is missing"]),
        ("x.csv", 'user,item\na,"b\nc,d"\n', ["line 2", "line break", "quote"]),
        ("x.csv", 'user,item,plays\nu1,"A,5\nu2,B,4\nu3,"C,3\n', ["line 2", "not valid CSV", "text after"]),
        ("x.csv", "user,item\na,b\nNULL,b\n", ["line 3", "user 'NULL' stands for no value", "--null-words"]),
        ("x.tsv", "user\titem\na\tb\na\t\\N\n", ["line 3", "item '\\\\N' stands for no value"]),
        ("x.jsonl", '{"user": "nan", "item": 2}\n', ["line 1", "user 'nan' stands for no value"]),
        ("x.jsonl", '{"user": NaN, "item": 2}\n', ["line 1", "user is missing"]),
        ("x.jsonl", '{"user": ' + "1" * 5000 + ', "item": 2}\n{}', ["line 1", "not valid JSON"]),
        ("x.csv", "user,item\na,b\nc\0,d\n", ["line 3", "NUL"]),
        ("x.csv", "user,item,time\na,b,1\r\na,b,soon\r\n", ["line 3", "timestamp 'soon'", "ISO date"]),
        ("x.csv", "user,item,time\na,b,1\na,b,1997-13-04\n", ["line 3", "timestamp '1997-13-04'"]),
        ("x.csv", "user,item,time\na,b,1\na,b,\n", ["line 3", "timestamp is missing"]),
        ("x.csv", "user,item\n ,b\n", ["line 2", "user is missing"]),
        ("x.csv", b"user,item\na,b\nc,\xff\n", ["line 3", "not UTF-8"]),
        ("x.csv", 'user,item\na,b\nc,"d\ne,f\n', ["line 3", "quote"]),
        ("x.csv", 'user,item\na,b\n"c,d\ne,f\n', ["line 3", "quote"]),
        ("x.csv", 'user,item\na,b\nc,"d\n' + "e,f\n" * 500_000, ["line 3", "quote"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n\n{"user": 1, "item"\n', ["line 3", "not valid JSON"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n[1, 2]\n', ["line 2", "not a JSON object"]),
        ("x.json", "{'user': 1, 'item': 2}\n{'user': 1, 'item'\n", ["line 2", "not a valid Python dict"]),
        ("x.json", "{'user': 1, 'item': 2}\n{'user': str(1), 'item': 2}\n", ["line 2", "not a valid Python"]),
        ("x.json", "{'user': 1, 'item': 2}\n{'user', 'item'}\n", ["line 2", "not a Python dict"]),
        ("x.json", "{'user': 1, 'item': 2}\n" + "[" * 100_000 + "\n", ["line 2", "not a valid Python dict"]),
        ("x.json", "{'user': 1, 'item': 2}\n{'user': b'x', 'item': 2}\n", ["line 2", "user b'x' is not"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": 1}\n', ["line 2", "item is missing"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": null, "item": 2}\n', ["line 2", "user is missing"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": 1.5, "item": 2}\n', ["line 2", "user 1.5 is not"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": true, "item": 2}\n', ["line 2", "user True is not"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n{"user": "\\ud800", "item": 2}\n', ["line 2", "is not text"]),
        ("x.jsonl", '{"user": 1, "item": 2, "rating": NaN}\n', ["line 1", "rating 'nan' is not a number"]),
        ("x.jsonl", b'{"user": 1, "item": 2}\n{"user": "\xff", "item": 2}\n', ["line 2", "not UTF-8"]),
        ("x.jsonl", '{"user": 1, "item": 2}\n' + "[" * 100_000 + "\n", ["line 2", "not valid JSON"]),
    ],
)
def test_bad_rows(tmp_path, name, content, parts):
    message = error_of(write(tmp_path / name, content))
    assert all(part in message for part in [name, *parts]), message


@pytest.mark.parametrize("name", ["x.inter", "x.csv", "train.txt", "x.jsonl"])
def test_truncated_gzip(tmp_path, name):
    header, line = {
        "x.inter": ("user_id:token\titem_id:token\n", "{}\t{}\n"),
        "x.csv": ("user,item\n", "{},{}\n"),
        "train.txt": ("", "{} {} 1\n"),
        "x.jsonl": ("", '{{"user": {}, "item": {}}}\n'),
    }[name]
    content = header + "".join(line.format(n, n * 7919 % 10007) for n in range(20_000))
    packed = gzip.compress(content.encode())
    whole = write(tmp_path / "whole" / f"{name}.gz", packed)
    message = error_of(write(tmp_path / f"{name}.gz", packed[: len(packed) // 2]))
    assert f"{name}.gz: line " in message
    assert "cut off or damaged" in message
    line_number = int(message.partition(": line ")[2].partition(":")[0])
    assert 4_000 < line_number < 16_000
    assert sum(map(len, read_tables(*find_files(whole)))) >= 20_000


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"user": ["a", None], "item": ["b", "c"]}, ["row 2", "user is missing"]),
        ({"user": ["a", "b"], "item": ["b", ""]}, ["row 2", "item is missing"]),
        ({"user": ["a", "b"], "item": [1.5, 2.5]}, ["row 1", "item 1.5 is not"]),
        ({"user": ["a", "nan"], "item": ["b", "c"]}, ["row 2", "user 'nan' stands for no value"]),
        ({"user": [1.0, None], "item": ["b", "c"]}, ["row 2", "user is missing"]),
        ({"user": [1.0, float("nan")], "item": ["b", "c"]}, ["row 2", "user is missing"]),
        ({"user": [2.0**60], "item": ["b"]}, ["row 1", "is not text or a whole number"]),
        ({"user": [Decimal("1.5")], "item": ["b"]}, ["row 1", "is not text or a whole number"]),
        ({"user": [1, 2], "item": [1, 2], "rating": [1.0, float("nan")]}, ["row 2", "rating nan is not"]),
        ({"user": [1, 2], "item": [1, 2], "rating": [1.0, None]}, ["row 2", "rating is missing"]),
        ({"user": [1, 2], "item": [1, 2], "timestamp": [1, -2]}, ["row 2", "timestamp -2", "negative"]),
        ({"user": [1, 2], "item": [1, 2], "timestamp": [1, None]}, ["row 2", "timestamp is missing"]),
        ({"user": [1, 2], "item": [1, 2], "timestamp": [datetime.time(1)] * 2}, ["row 1", "is not a time"]),
        ({"user": [[1], [2]], "item": [1, 2]}, ["row 1", "user [1] is not text"]),
    ],
)
def test_bad_parquet_rows(tmp_path, columns, parts):
    message = error_of(write_parquet(tmp_path / "x.parquet", **columns))
    assert all(part in message for part in ["x.parquet", *parts]), message


def test_damaged_parquet(tmp_path):
    source = write_parquet(tmp_path / "x.parquet", user=list(range(5000)), item=list(range(5000)))
    content = bytearray(Path(source).read_bytes())
    content[100:3000] = b"\0" * 2900
    message = error_of(write(tmp_path / "x.parquet", bytes(content)))
    assert "x.parquet: damaged" in message


# Published data sets.


@pytest.mark.parametrize(
    ("name", "format", "rows", "users", "items"),
    [
        ("ml-100k", "inter", {None: 100_000}, 943, 1_682),
        ("ml-1m", "user-items", {"train": 800_005, "test": 200_204}, 6_040, 3_706),
        ("phone", "user-items", {"train": 155_163, "test": 39_276}, 27_879, 10_429),
        ("beauty", "user-items", {"train": 63_601, "test": 18_696}, None, None),
        ("gowalla", "user-items", {"train": 810_128, "test": 217_242}, 29_858, 40_981),
        ("video-games", "pairs", {None: 287_107}, 31_013, 23_715),
    ],
)
def test_real_data(name, format, rows, users, items):
    if not (REAL / name).is_dir():
        pytest.skip(f"the real data is not here: {REAL / name}")
    files = find_files(str(REAL / name))
    assert {file.format.name for file in files} == {format}
    tables = {file.split: pa.concat_tables(read_tables(file, block_bytes=1 << 20)) for file in files}
    assert {split: table.num_rows for split, table in tables.items()} == rows
    everything = pa.concat_tables(tables.values())
    if users is not None:
        assert len(everything["user"].unique()) == users
        assert len(everything["item"].unique()) == items
    assert all(file.has_time == (format == "inter") for file in files)
