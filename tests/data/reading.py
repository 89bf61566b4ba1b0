"""Helpers that write small sources and read them back, and a source of every format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adar_ray.data.options import ReadOptions
from adar_ray.data.readers import FileReader
from adar_ray.data.sources import SourceFile, find_source
from adar_ray.data.values import CANONICAL
from adar_ray.errors import AdarError


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def write_parquet(path: Path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def find_files(
    source: str, format: str | None = None, columns: dict[str, str] | None = None
) -> list[SourceFile]:
    return find_source(source, format, columns).files


def read_tables(file: SourceFile, block_bytes: int = 32 << 20) -> Iterator[pa.Table]:
    return FileReader(file).tables(block_bytes)


def rows_of(file: SourceFile, block_bytes: int = 32 << 20) -> list[tuple]:
    """(user, item, rating, time in seconds) of every row, after a look at schema and positions."""
    tables = list(read_tables(file, block_bytes))
    assert all(table.schema == CANONICAL for table in tables)
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    assert [row[-1] for row in rows] == list(range(len(rows)))
    unit = 10**9 if file.has_time else 1
    return [(user, item, rating, time / unit) for user, item, rating, time, _ in rows]


def read(
    source: str, format: str | None = None, columns: dict[str, str] | None = None, **options
) -> list[tuple]:
    """The rows of a source's only file, the same whatever the size of the blocks."""
    (file,) = find_source(source, format, columns, ReadOptions(**options)).files
    rows = rows_of(file)
    for block_bytes in (1, 16, 64):
        assert rows_of(file, block_bytes) == rows
    return rows


def error_of(source: str, format: str | None = None, columns: dict[str, str] | None = None, **options) -> str:
    def read_all() -> None:
        for file in find_source(source, format, columns, ReadOptions(**options)).files:
            list(FileReader(file).tables(4096))

    with pytest.raises(AdarError) as caught:
        read_all()
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
    "tsv": ("log.tsv", 'user\titem\n"a\t"b "c"\n', [('"a', '"b "c"', None, 0)]),
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
