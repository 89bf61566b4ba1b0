"""Values of every type become canonical ones."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from tests.data.reading import read, write, write_parquet


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
