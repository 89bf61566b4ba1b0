"""YAML and JSON: what is read, and that anything else is refused in one short line and in little time."""

from __future__ import annotations

import hashlib
import json
import re
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from adar_ray.documents import (
    LONGEST_JSON,
    LONGEST_YAML,
    parse_json,
    parse_lines,
    parse_record,
    parse_sealed_yaml,
    parse_yaml,
    read_yaml,
    to_lines,
    to_record,
    to_sealed_yaml,
    to_yaml,
)
from adar_ray.errors import LONGEST_MESSAGE, AdarError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


def refusal(call, *arguments: Any) -> str:
    started = time.process_time()
    with pytest.raises(AdarError) as caught:
        call(*arguments)
    assert time.process_time() - started < 5
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= LONGEST_MESSAGE
    return message


class Point(BaseModel, extra="forbid"):
    x: int


class Points(BaseModel):
    points: list[Point]


def sealed(text: str) -> bytes:
    """A record whose content may be anything."""
    head = f'{text}, "sha256": "'.encode("latin-1")
    return head + hashlib.sha256(head).hexdigest().encode() + b'"\n}\n'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("", None),
            ("# only a remark", None),
            ("~", None),
            ("[1, a, [b]]", [1, "a", ["b"]]),
            ("é: ü", {"é": "ü"}),
        ),
        *(("a: {b: 1}\nc:\n- d", {"a": {"b": 1}, "c": ["d"]}), ("1: true", {1: True}), ("|\n a\n b", "a\nb")),
        *(
            ("1e-3", 0.001),
            ("+2E5", 2e5),
            ("1_000", 1000),
            ("0x10", 16),
            ("1:30", "1:30"),
            (".inf", float("inf")),
        ),
        *(("9223372036854775807", 2**63 - 1), ("'1'", "1"), ("&name value", "value")),
        *(
            ("2001-02-03", "2001-02-03"),
            ("2001-99-99", "2001-99-99"),
            ("=", "="),
            ("<<: {a: 1}", {"<<": {"a": 1}}),
        ),
    ],
)
def test_yaml_says_what_json_can_say(text: str, value: Any) -> None:
    assert parse_yaml(text, "f") == value
    assert parse_yaml(text.encode(), "f") == value
    assert parse_yaml(b"\xef\xbb\xbf" + text.encode(), "f") == value
    assert parse_yaml(to_yaml(value), "f") == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key a is there twice"),
        ("x: {1: 2, true: 3}", "line 1, column 11: the key true is there twice"),
        ("? [1]\n: 2", "a list or a mapping cannot be a key"),
        ("x: &a [1]\ny: *a", "line 2, column 4: write out the value that *a stands for"),
        ("&a [*a]", "write out the value that *a stands for"),
        ("x: !!timestamp 1", "line 1, column 4: leave out the tag !!timestamp"),
        ("!!python/object/apply:os.getpid []", "leave out the tag !!python/object/apply:os.getpid"),
        ("!!set {a, b}", "leave out the tag !!set"),
        ("!mine 1", "leave out the tag !mine"),
        ("x: " + "9" * 5000, "line 1, column 4: the number 9999"),
        ("x: 9223372036854775808", "the number 9223372036854775808 is too long"),
        ("x: 0x_", "line 1, column 4: invalid"),
        ("[" * 100_000, "line 1, column 33: nested more than 32 levels deep"),
        ("{a: " * 50_000, "nested more than 32 levels deep"),
        ("- " * 100_000, "nested more than 32 levels deep"),
        ("a\0b", "#x0000"),
        (r'"a\0b"', "a character that no text may hold"),
        (r'"\ud800"', "a character that no text may hold"),
        ("a: [1", "line 1, column 6"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: " + "x" * LONGEST_YAML, "longer than 262,144 bytes"),
        (BOMB, "line 2, column 10: write out"),
    ],
    ids=lambda text: text[:20],
)
def test_other_yaml_is_refused(text: str, problem: str) -> None:
    message = refusal(parse_yaml, text, "the file")
    assert message.startswith("the file: is not valid YAML (")
    assert problem in message


def test_what_is_written_is_read_as_the_same() -> None:
    shared = ["1e-3", "2001-02-03", "=", "<<", "null", "1:30", "", " a\nb ", "ü", "#", "a: b"]
    value = {"a": shared, "b": [shared, shared], "c": [1e-5, -0.0, 1e300, 2**63 - 1, True, None], "d": {}}
    assert parse_yaml(to_yaml(value), "f") == value
    assert yaml.safe_load(to_yaml(value)) == value
    line = to_yaml({"a": list(range(1000))}, flow=True)
    assert line.count("\n") == 1
    assert parse_yaml(line, "f") == {"a": list(range(1000))}


def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"a: 1\nb: \xe9\n")
    assert refusal(read_yaml, file) == (
        f"{file}: is not valid YAML (line 2: not UTF-8; convert the file, for instance with iconv)"
    )
    file.write_bytes(b"")
    assert read_yaml(file) == {}
    assert "cannot be read" in refusal(read_yaml, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "EOF"),
        ('{"a": 1', "EOF"),
        ("[" * 100_000, "recursion limit"),
        ("9" * 5000, "number out of range"),
        (b'"\xff"', "line 1: not UTF-8"),
        ('{"a": 01}', "line 1 column 8"),
        (f'"{"a" * LONGEST_JSON}"', "longer than 8,388,608 bytes"),
        (f"[{'[],' * 200_000}0]", "more than 131,072 values"),
    ],
    ids=lambda text: str(text)[:10],
)
def test_damaged_json_is_refused(text: str, problem: str) -> None:
    assert problem in refusal(parse_json, text, "f")
    assert refusal(parse_json, text, "f", "fetch it again").endswith("); fetch it again")


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (Point, ",".join(f'"{key}":0' for key in range(130_000))),
        (Points, f'"points": [{",".join(["0"] * 130_000)}]'),
    ],
    ids=["keys", "list"],
)
def test_a_record_full_of_faults_takes_little_time_and_memory(record: type[BaseModel], text: str) -> None:
    data = sealed(f"{{{text}")
    assert len(data) < LONGEST_JSON
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(parse_record, data, "f", record).startswith("f: is damaged (")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert parse_json('\ufeff{"a": [1.5, null]}'.encode(), "f") == {"a": [1.5, None]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('"y": 1', "x: is missing"),
        ('"x": "a"', "x: give a whole number"),
        ('"x": ' + "9" * 5000, "number out of range"),
        ('"x": ' + "[" * 100_000, "recursion limit"),
        ('"x": [', "expected"),
        ('"x": "\xff"', "line 1: not UTF-8"),
    ],
    ids=lambda text: text[:10],
)
def test_what_is_no_record_is_refused_with_the_key(text: str, problem: str) -> None:
    assert parse_record(to_record({"x": 3}), "f", Point).x == 3
    message = refusal(parse_record, sealed(f"{{{text}"), "f", Point, "remove it")
    assert message.startswith("f: is damaged (")
    assert problem in message
    assert message.endswith("; remove it")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "EOF"),
        ('{"x": 1}, {"x": 2}', "trailing"),
        ('{"x": ' + "[" * 100_000, "recursion limit"),
        ('{"x": 1, "y": 2}', "y: there is no such key"),
        ('{"x": [' + "0," * 200_000 + "0]}", "more than 131,072 values"),
    ],
    ids=lambda text: text[:10],
)
def test_a_line_that_is_no_record_is_refused_with_its_number(line: str, problem: str) -> None:
    head = f'{{"x": 3}}\n{line}\n{{"x": 4, "sha256": "'.encode()
    data = head + hashlib.sha256(head).hexdigest().encode() + b'"}\n'
    message = refusal(parse_lines, data, "f", Point, "remove it")
    assert message.startswith("f: is damaged (line 2: ")
    assert problem in message


def test_lines_that_hold_nothing_but_a_checksum_are_refused() -> None:
    head = b'{"sha256": "'
    data = head + hashlib.sha256(head).hexdigest().encode() + b'"}\n'
    assert "line 1" in refusal(parse_lines, data, "f", Point)


CONTENT = {"x": 3, "é": ["\n", None, 0.1], "sha256": "a key of its own"}
SEALED = {
    "record": (to_record({"x": 3}), lambda data: parse_record(data, "f", Point, "remove it")),
    "lines": (
        to_lines([{"x": 1}, {"x": 2}, {"x": 3}]),
        lambda data: parse_lines(data, "f", Point, "remove it"),
    ),
    "yaml": (to_sealed_yaml(CONTENT), lambda data: parse_sealed_yaml(data, "f", "remove it")),
}


def test_a_document_ends_with_the_checksum_of_what_is_before_it() -> None:
    for data, _ in SEALED.values():
        head, checksum = re.fullmatch(rb"(.*)([0-9a-f]{64})\W+", data, re.DOTALL).groups()
        assert hashlib.sha256(head).hexdigest() == checksum.decode()
    assert json.loads(SEALED["record"][0]).keys() == {"x", "sha256"}
    assert yaml.safe_load(SEALED["yaml"][0]) == CONTENT
    record, lines, document = (read(data) for data, read in SEALED.values())
    assert (record, lines, document) == (Point(x=3), [Point(x=1), Point(x=2), Point(x=3)], CONTENT)


@pytest.mark.parametrize("kind", SEALED)
def test_every_change_of_a_sealed_document_is_refused(kind: str) -> None:
    """Each bit flipped, each end cut off, and other content with the same checksum."""
    data, read = SEALED[kind]
    flipped = [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]
    cut = [data[:end] for end in range(len(data))]
    others = [data + b"\n", data + data, b" " + data, data[1:], data.replace(b"3", b"4"), data.upper()]
    for changed in (*flipped, *cut, *others):
        assert re.fullmatch(r"f: is damaged \(.*checksum.*\); remove it", refusal(read, changed))


def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes() -> None:
    assert str(AdarError("a.csv: line 3: é")) == "a.csv: line 3: é"
    assert str(AdarError("a\nb\x1b[31m\0\ud800c")) == "a b [31m  c"
    message = str(AdarError("f: " + "x" * 10_000 + "; do this"))
    assert len(message) <= LONGEST_MESSAGE
    assert message.startswith("f: xxx")
    assert message.endswith("xxx; do this")
