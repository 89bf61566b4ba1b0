"""Every source format: exact rows of small files in each original's form, and what bad ones say."""

import bz2
import dataclasses
import datetime
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adar_ray.data.readers import CANONICAL, read_tables
from adar_ray.data.sources import FORMATS, SourceFile, find_files
from adar_ray.errors import AdarError

REAL = Path(__file__).parents[2] / "shared" / "data"
AMAZON = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_parquet(path: Path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def rows_of(file: SourceFile, block_bytes: int = 32 << 20) -> list[tuple]:
    """(user, item, rating, timestamp) of every row, after a look at schema and positions."""
    tables = list(read_tables(file, block_bytes))
    assert all(table.schema == CANONICAL for table in tables)
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    assert [row[-1] for row in rows] == list(range(len(rows)))
    return [row[:-1] for row in rows]


def read(source: str, format: str | None = None, columns: dict[str, str] | None = None) -> list[tuple]:
    """The rows of a source's only file, the same whatever the size of the blocks."""
    (file,) = find_files(source, format, columns)
    rows = rows_of(file)
    for block_bytes in (1, 16, 64):
        assert rows_of(file, block_bytes) == rows
    return rows


def error_of(source: str, format: str | None = None, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(AdarError) as caught:
        sum(len(table) for file in find_files(source, format, columns) for table in read_tables(file, 4096))
    message = str(caught.value)
    assert "\n" not in message
    return message


INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n"
    "186\t302\t3.5\t8.9e8\n"
)
INTER_ROWS = [("196", "242", 3.0, 881250949), ("186", "302", 3.5, 890000000)]
RATINGS = [("1", "1193", 5.0, 978300760), ("1", "661", 3.0, 978302109)]

ORIGINALS = {
    "inter": ("ml-100k.inter", INTER, INTER_ROWS),
    "ml-100k": ("u.data", "1\t1193\t5\t978300760\n1\t661\t3\t978302109\n", RATINGS),
    "ml-1m": ("ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n", RATINGS),
    "ml-csv": (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n1,661,3.0,978302109\n",
        RATINGS,
    ),
    "user-items": (
        "train.txt",
        "0 774 9581\n1 \n2\n3 5 \n",
        [("0", "774", None, 0), ("0", "9581", None, 1), ("3", "5", None, 2)],
    ),
    "pairs": (
        "Video.txt",
        "1 6393\n1 13504\n2 1\n",
        [("1", "6393", None, 0), ("1", "13504", None, 1), ("2", "1", None, 2)],
    ),
    "amazon-2014": (
        "ratings_Beauty.csv",
        "A39EXAMPLE0001,0012345678,5.0,1369699200\nA3JEXAMPLE0002,B000EXAMPX,3.0,1355443200\n",
        [
            ("A39EXAMPLE0001", "0012345678", 5.0, 1369699200),
            ("A3JEXAMPLE0002", "B000EXAMPX", 3.0, 1355443200),
        ],
    ),
    "amazon-2018": (
        "All_Beauty.csv",
        "0012345678,A1VEXAMPLE0001,1.0,1424304000\nB000EXAMPX,A2FEXAMPLE0002,4.0,1418860800\n",
        [
            ("A1VEXAMPLE0001", "0012345678", 1.0, 1424304000),
            ("A2FEXAMPLE0002", "B000EXAMPX", 4.0, 1418860800),
        ],
    ),
    "checkins": (
        "loc-gowalla_totalCheckins.txt",
        "0\t1997-12-04T15:55:49Z\t30.23\t-97.79\t22847\n0\t1997-12-04T00:00:00Z\t0.0\t1.0E-4\t7\n",
        [("0", "22847", None, 881250949), ("0", "7", None, 881193600)],
    ),
    "lastfm-1k": (
        "userid-timestamp-artid-artname-traid-traname.tsv",
        'user_000001\t1997-12-04T15:55:49Z\t\tÉ\t\t\nuser_000001\t1997-12-04T00:00:00Z\tf1\t"Al" Y\t2\t"x\n',
        [("user_000001", "É", None, 881250949), ("user_000001", '"Al" Y', None, 881193600)],
    ),
    "csv": ("log.csv", "item_id,user_id,time\n007,a,5\n", [("a", "007", None, 5)]),
    "tsv": ("log.tsv", 'user\titem\n"a\tb"\tc\n', [("a\tb", "c", None, 0)]),
    "jsonl": (
        "log.jsonl",
        '{"user": "a", "item": 7, "timestamp": 5, "rating": 4.5}\n'
        '{"timestamp": "6", "item": "b", "user": "c", "rating": 1}\n',
        [("a", "7", 4.5, 5), ("c", "b", 1.0, 6)],
    ),
    "pydict": (
        "log.json",
        "{u'user': u'a', 'item': 7, 'timestamp': 5, 'rating': 4.5}\n"
        "{'timestamp': '6', 'item': \"b's\", 'user': u'\\xe9', 'rating': 1}\n",
        [("a", "7", 4.5, 5), ("é", "b's", 1.0, 6)],
    ),
}


def test_every_format_has_a_test():
    assert set(FORMATS) == {*ORIGINALS, "parquet"}


@pytest.mark.parametrize("format", ORIGINALS)
def test_original_file(tmp_path, format):
    name, content, rows = ORIGINALS[format]
    source = write(tmp_path / name, content)
    (file,) = find_files(source)
    assert (file.path, file.format) == (source, format)
    assert file.split == ("train" if format == "user-items" else None)
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
def test_gz(tmp_path, format):
    name, content, rows = ORIGINALS[format]
    assert read(write(tmp_path / f"{name}.gz", gzip.compress(content.encode()))) == rows


def test_zst_and_bz2(tmp_path):
    with pa.output_stream(str(tmp_path / "u.data.zst"), compression="zstd") as stream:
        stream.write(ORIGINALS["ml-100k"][1].encode())
    assert read(str(tmp_path / "u.data.zst")) == RATINGS
    content = ORIGINALS["ml-csv"][1].encode()
    assert read(write(tmp_path / "ratings.csv.bz2", bz2.compress(content))) == RATINGS


UNUSUAL = ["юзер", "用户", "🎧🎸", "007", "7", "NA", "null", "1e5", "a\u00a0b", "\u3000x", "-1", "é"]


@pytest.mark.parametrize("name", ["x.inter", "x.csv", "x.tsv", "x.jsonl", "x.txt"])
def test_unusual_ids_stay_as_they_are(tmp_path, name):
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
    lines = [f'{n},"i{n % 97}, {"x" * 200}\n"' for n in range(8000)]
    (file,) = find_files(write(tmp_path / "x.csv", "user,item\n" + "\n".join(lines) + "\n"))
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


def test_columns(tmp_path):
    record = '{"reviewerID": "A1", "asin": "0000013714", "overall": 5.0, "unixReviewTime": 1393545600}\n'
    source = write(tmp_path / "reviews.json.gz", gzip.compress(record.encode()))
    assert read(source, columns=AMAZON) == [("A1", "0000013714", 5.0, 1393545600)]
    without_rating = {"user": "reviewerID", "item": "asin"}
    assert read(source, columns=without_rating) == [("A1", "0000013714", None, 1393545600)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("881250949", 881250949),
        (" 881250949 ", 881250949),
        ("881250949.9", 881250949),
        ("8.81250949e8", 881250949),
        ("99999999999", 99999999999),
        ("100000000000", 100000000),
        ("881250949999", 881250949),
        ("8.81250949999e11", 881250949),
        ("881250949999999", 881250949),
        ("881250949999999999", 881250949),
        ("9999-12-31", 253402214400),
        ("1997-12-04", 881193600),
        ("1997-12-04 15:55:49", 881250949),
        ("1997-12-04T15:55:49Z", 881250949),
        ("1997-12-04T15:55:49.987654321Z", 881250949),
        ("1997-12-04T16:55:49+01:00", 881250949),
        ("1997-12-04 10:55:49.5-0500", 881250949),
        ("1997-12-04T15:55", 881250900),
    ],
)
def test_times(tmp_path, text, seconds):
    assert read(write(tmp_path / "x.csv", f"user,item,time\na,b,{text}\nc,d,7\ne,f,8.5\n")) == [
        ("a", "b", None, seconds),
        ("c", "d", None, 7),
        ("e", "f", None, 8),
    ]


def test_parquet_types(tmp_path):
    moment = datetime.datetime(1997, 12, 4, 15, 55, 49, 987654)
    east = datetime.timezone(datetime.timedelta(hours=1))
    times = {
        "int": pa.array([881250949], pa.int32()),
        "milliseconds": pa.array([881250949987]),
        "float milliseconds": pa.array([881250949987.0]),
        "float": pa.array([881250949.9]),
        "text": pa.array(["1997-12-04T15:55:49"]),
        "naive": pa.array([moment], pa.timestamp("ns")),
        "zoned": pa.array(
            [moment.replace(tzinfo=east) + datetime.timedelta(hours=1)], pa.timestamp("us", "+01:00")
        ),
    }
    for name, time in times.items():
        source = write_parquet(tmp_path / f"{name}.parquet", user=[7], item=["007"], timestamp=time)
        assert read(source) == [("7", "007", None, 881250949)]
    source = write_parquet(
        tmp_path / "date.pq",
        user=pa.array(["a", "a"]).dictionary_encode(),
        item=pa.array([1, 2], pa.uint64()),
        rating=pa.array([1, 2], pa.int8()),
        timestamp=pa.array([datetime.date(1997, 12, 4)] * 2),
    )
    assert read(source) == [("a", "1", 1.0, 881193600), ("a", "2", 2.0, 881193600)]
    source = write_parquet(tmp_path / "large.parquet", user=pa.array(["é"], pa.large_string()), item=[1])
    assert read(source) == [("é", "1", None, 0)]


# --- finding files -----------------------------------------------------------------------------------


def names(source: Path | str, format: str | None = None) -> list[str]:
    return [Path(file.path).name for file in find_files(str(source), format)]


def test_folders_of_the_originals(tmp_path):
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
    assert [(Path(file.path).name, file.format, file.split) for file in files] == [
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


def test_names_with_letters_of_any_alphabet(tmp_path):
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


def test_source_file_without_columns_reads_the_usual_ones(tmp_path):
    (file,) = find_files(write(tmp_path / "x.inter", INTER))
    assert rows_of(dataclasses.replace(file, columns=None)) == INTER_ROWS


# --- bad input ---------------------------------------------------------------------------------------


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
    ],
)
def test_bad_sources(tmp_path, files, source, parts):
    for name, content in files.items():
        write(tmp_path / name, content)
    message = error_of(str(tmp_path / source))
    assert all(part in message for part in parts), message


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
        ("train.txt", b"1 2 4\n1 3\n" * 500 + b"\xff 3\n", ["line 1001", "not UTF-8"]),
        ("x.csv", "user,item\na,b\nc\n", ["line 3", "expected 2 fields, found 1"]),
        ("x.csv", 'user,item\n"a\nb",c\n\n"d\n",\n', ["line 5", "item is missing"]),
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
def test_cut_off_gzip(tmp_path, name):
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


def test_bad_arguments(tmp_path):
    source = write(tmp_path / "x.csv", "user,item\na,b\n")
    assert "unknown format 'xml'" in error_of(source, "xml")
    assert "unknown key 'usr'" in error_of(source, columns={"usr": "user"})
    message = error_of(source, columns={"user": "reviewerID"})
    assert "no column 'reviewerID'" in message
    assert "user, item" in message


def test_file_that_went_away(tmp_path):
    (file,) = find_files(write(tmp_path / "x.csv", "user,item\na,b\n"))
    Path(file.path).unlink()
    with pytest.raises(AdarError, match="no such file or folder"):
        list(read_tables(file))


# --- the real data -----------------------------------------------------------------------------------


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
    assert {file.format for file in files} == {format}
    tables = {file.split: pa.concat_tables(read_tables(file, block_bytes=1 << 20)) for file in files}
    assert {split: table.num_rows for split, table in tables.items()} == rows
    everything = pa.concat_tables(tables.values())
    if users is not None:
        assert len(everything["user"].unique()) == users
        assert len(everything["item"].unique()) == items
    assert all(file.has_time == (format == "inter") for file in files)
