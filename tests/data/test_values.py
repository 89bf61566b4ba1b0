"""Values of every type become canonical ones."""

from __future__ import annotations

import datetime
import re
import time
from decimal import Decimal

import pyarrow as pa
import pytest

from adar_ray.data.prepare import prepare
from adar_ray.errors import AdarError
from tests.data.reading import error_of, find_files, read, read_tables, write, write_parquet

NANOSECONDS = 881250949987654321


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("881250949", 881250949),
        (" 881250949 ", 881250949),
        ("881250949.25", 881250949.25),
        ("8.81250949e8", 881250949),
        ("99999999999", None),
        ("100000000000", 100000000),
        ("881250949987", 881250949.987),
        ("8.81250949987e11", 881250949.987),
        ("881250949987654", 881250949.987654),
        ("881250949987654321", 881250949.987654321),
        ("19971204155549", 881250949),
        ("19971304155549", None),
        ("19971204", 881193600),
        ("19971304", 19971304),  # no date, so seconds
        ("19970231", None),
        ("21991231", 7258032000),
        ("9223372035.9", 9223372035.9),
        ("9223372036.9", None),  # nanoseconds have no such time: 64 bits end within this second
        ("9999-12-31", None),
        ("1997-12-04", 881193600),
        ("1997-12-04 15:55:49", 881250949),
        ("1997-12-04 15:55:49 UTC", 881250949),
        ("1997-12-04T15:55:49Z", 881250949),
        ("1997-12-04T15:55:49.987654321Z", 881250949.987654321),
        ("1997-12-04T16:55:49+01:00", 881250949),
        ("1997-12-04 10:55:49.5-0500", 881250949.5),
        ("1997-12-04T15:55", 881250900),
        ("04/12/1997", None),
        ("1997-02-30", None),
        ("9" * 25, None),
        ("-1", None),
        ("1e400", None),
    ],
)
def test_times(tmp_path, text, seconds):
    source = write(tmp_path / "x.csv", f"user,item,time\na,b,{text}\n")
    if seconds is None:
        message = error_of(source)
        assert "line 2: the timestamp" in message
        assert "is not a time" in message
    else:
        assert read(source) == [("a", "b", None, seconds)]


@pytest.mark.parametrize("blank", [" ", "\t", "\u00a0", " \u3000 "])
@pytest.mark.parametrize("column", ["user", "item"])
def test_an_id_of_nothing_but_blanks_is_missing(tmp_path, column, blank):
    columns = {name: ["a", blank if name == column else "b"] for name in ("user", "item")}
    source = write_parquet(tmp_path / "x.parquet", **columns)
    assert f"the {column} is missing" in error_of(source)


@pytest.mark.parametrize(
    "times", [["1577836800900", "1577836800"], ["881250949", "1997-12-04"], ["19971204155549", "881250949"]]
)
def test_a_column_counts_in_one_unit(tmp_path, times):
    source = write(tmp_path / "x.csv", "user,item,time\n" + "".join(f"a,b,{time}\n" for time in times))
    message = error_of(source)
    assert f"line 3: the timestamp '{times[1]}' is not in " in message
    assert message.partition("as those before it")[1]


def test_days_and_seconds_of_two_files_are_not_mixed(tmp_path):
    (tmp_path / "logs").mkdir()
    for name, first in (("a", 1400000000), ("b", 20170714)):
        write(tmp_path / "logs" / f"{name}.csv", f"user,item,time\nu,i,{first}\nu,j,{first + 1}\n")
    with pytest.raises(AdarError, match=r"a.csv: its times are seconds, those of .*b.csv dates; convert one"):
        prepare(tmp_path / "logs", tmp_path / "data")


def test_unit_of_times(tmp_path):
    source = write(tmp_path / "x.csv", "user,item,time\na,b,1577836800900\na,c,7\n")
    assert read(source, timestamp_unit="ms") == [("a", "b", None, 1577836800.9), ("a", "c", None, 0.007)]
    assert "'1577836800900' is not a time" in error_of(source, timestamp_unit="s")


@pytest.mark.parametrize(
    ("text", "format", "seconds"),
    [
        ("04/12/1997 15:55", "%d/%m/%Y %H:%M", 881250900),
        ("19971204", "%Y%m%d", 881193600),
        (" 1.12.1997", "%d.%m.%Y", 880934400),
        ("04.12.1997 15:55:49.25 +0100", "%d.%m.%Y %H:%M:%S.%f %z", 881247349.25),
    ],
)
def test_format_of_times(tmp_path, text, format, seconds):
    source = write(tmp_path / "x.csv", f"user,item,time\na,b,{text}\n")
    assert read(source, timestamp_format=format) == [("a", "b", None, seconds)]
    message = error_of(write(tmp_path / "y.csv", "user,item,time\na,b,soon\n"), timestamp_format=format)
    assert f"line 2: the timestamp 'soon' does not have the --timestamp-format {format!r}" in message


@pytest.mark.parametrize(
    ("text", "format"), [("31/02/2020", "%d/%m/%Y"), ("30.2.2021", "%d.%m.%Y"), ("20210431", "%Y%m%d")]
)
def test_a_day_that_the_month_does_not_have(tmp_path, text, format):
    source = write(tmp_path / "x.csv", f"user,item,time\na,b,{text}\n")
    assert f"line 2: the timestamp '{text}' does not have" in error_of(source, timestamp_format=format)


@pytest.mark.parametrize(
    ("format", "problem"),
    [("%T", "'T' is a bad directive"), ("%Y%", "stray %"), ("%Y %Y", "a directive is there twice")],
)
def test_a_format_that_cannot_be(tmp_path, format, problem):
    source = write(tmp_path / "x.csv", "user,item,time\na,b,2020\n")
    assert re.search(f"--timestamp-format.*{problem}", error_of(source, timestamp_format=format))


def test_order_within_a_second_is_kept(tmp_path):
    for column in (
        pa.array([NANOSECONDS, NANOSECONDS + 1]),
        pa.array([NANOSECONDS, NANOSECONDS + 1], pa.timestamp("ns")),
        pa.array(["1997-12-04T15:55:49.987654321", "1997-12-04T15:55:49.987654322"]),
        pa.array(["881250949.987654321", "881250949.987654322"]),
        pa.array([Decimal("881250949.987654321"), Decimal("881250949.987654322")]),
    ):
        source = write_parquet(tmp_path / "x.parquet", user=[1, 1], item=[1, 2], timestamp=column)
        table = read_table(source)
        assert table["timestamp"].to_pylist() == [NANOSECONDS, NANOSECONDS + 1], column.type


def read_table(source):

    (table,) = read_tables(*find_files(source))
    return table


def test_parquet_types(tmp_path):
    moment = datetime.datetime(1997, 12, 4, 15, 55, 49, 987654)
    east = datetime.timezone(datetime.timedelta(hours=1))
    times = {
        "int": (pa.array([881250949], pa.int32()), 881250949),
        "milliseconds": (pa.array([881250949987]), 881250949.987),
        "float milliseconds": (pa.array([881250949987.0]), 881250949.987),
        "float": (pa.array([881250949.5]), 881250949.5),
        "text": (pa.array(["1997-12-04T15:55:49"]), 881250949),
        "naive": (pa.array([moment], pa.timestamp("ns")), 881250949.987654),
        "zoned": (
            pa.array(
                [moment.replace(tzinfo=east) + datetime.timedelta(hours=1)], pa.timestamp("us", "+01:00")
            ),
            881250949.987654,
        ),
    }
    for name, (moment, seconds) in times.items():
        source = write_parquet(tmp_path / f"{name}.parquet", user=[7], item=["007"], timestamp=moment)
        assert read(source) == [("7", "007", None, seconds)]
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


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([12.0, 13.0]), ["12", "13"]),
        (pa.array([Decimal(12), Decimal(13)], pa.decimal128(38, 0)), ["12", "13"]),
        (pa.array([Decimal("12.00"), Decimal("13.00")], pa.decimal128(10, 2)), ["12", "13"]),
        (pa.array([Decimal(10**60)], pa.decimal256(76, 0)), ["1" + "0" * 60]),
        (pa.array([b"a", "é".encode()]), ["a", "é"]),
        (pa.array([2**63], pa.uint64()), [str(2**63)]),
        (pa.array([2.0**24, 7], pa.float32()), [str(2**24), "7"]),
        (pa.array([2.0**53]), [str(2**53)]),
    ],
)
def test_ids_of_parquet_types(tmp_path, column, ids):
    source = write_parquet(tmp_path / "x.parquet", user=column, item=column)
    assert [(row[0], row[1]) for row in read(source)] == [(id, id) for id in ids]


@pytest.mark.parametrize(("number", "kind"), [(2.0**24 + 2, pa.float32()), (2.0**53 + 2, pa.float64())])
def test_ids_that_floats_may_have_rounded_are_refused(tmp_path, number, kind):
    source = write_parquet(tmp_path / "x.parquet", user=pa.array([number], kind), item=[1])
    assert "the user" in error_of(source)


def test_words_that_stand_for_no_value(tmp_path):
    source = write(tmp_path / "x.csv", "user,item\nNone,?\n")
    assert "user 'None' stands for no value" in error_of(source)
    assert "item '?' stands for no value" in error_of(source, null_words=("?",))
    assert read(source, null_words=()) == [("None", "?", None, 0)]


def test_a_value_that_python_cannot_hold(tmp_path):
    column = pa.array([2**50], pa.timestamp("ms"))
    source = write_parquet(tmp_path / "x.parquet", user=column, item=[1])
    assert "row 1: the user '(a timestamp[ms] that cannot be shown)' is not text" in error_of(source)


def test_the_name_of_a_zone_is_utc_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")  # whose names Python would take, and then forget
    time.tzset()
    try:
        format = "%d/%m/%Y %H:%M %Z"
        source = write(tmp_path / "x.csv", "user,item,time\na,b,04/12/1997 15:55 GMT\n")
        assert read(source, timestamp_format=format) == [("a", "b", None, 881250900)]
        source = write(tmp_path / "y.csv", "user,item,time\na,b,04/12/1997 15:55 EST\n")
        assert "'04/12/1997 15:55 EST' does not have the --timestamp-format" in error_of(
            source, timestamp_format=format
        )
    finally:
        monkeypatch.undo()
        time.tzset()
