"""Open the files of a source: as bytes, lines, CSV records, JSON objects, Python dicts or Parquet.

Whatever is wrong with a file is an AdarError that names the file and the line.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from adar_ray.errors import AdarError, one_line
from adar_ray.storage import resolve

NOT_UTF8 = ("not UTF-8", "convert the file, for instance with iconv")
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
_LONGEST_LINE = 1 << 28


def open_file(path: str, *, seekable: bool = False) -> pa.NativeFile:
    """Open a file that must exist and not be empty; a stream is decompressed by the ending of its name."""
    filesystem, inner = resolve(path)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.NotFound:
            raise AdarError(f"{path}: no such file or folder; check the address")
        if info.size == 0:
            raise _empty(path)
        return filesystem.open_input_file(inner) if seekable else filesystem.open_input_stream(inner)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: OSError) -> AdarError:
    return AdarError(f"{path}: cannot be read ({one_line(error)}); check the address and your access to it")


def bad_line(path: str, number: int, problem: str, remedy: str = "correct or remove this line") -> AdarError:
    return AdarError(f"{path}: line {number}: {problem}; {remedy}")


def wrong_field_count(path: str, number: int, found: int, expected: int) -> AdarError:
    return bad_line(path, number, f"expected {expected} fields, found {found}")


def _empty(path: str) -> AdarError:
    return AdarError(f"{path}: the file is empty; remove it or fetch it again")


def chunks(path: str, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines of a text file, about `block_bytes` at a time, with the number of the first."""
    number, rest = 1, b""
    with open_file(path) as stream:
        while True:
            try:
                block = stream.read(block_bytes)
            except OSError as error:
                problem = f"cut off or damaged ({one_line(error)})"
                raise bad_line(path, number, problem, "fetch the file again") from error
            if not block or len(rest) > _LONGEST_LINE:
                break
            head, newline, tail = block.rpartition(b"\n")
            if newline:
                chunk = rest + head + newline
                yield number, chunk.removeprefix(_BOM) if number == 1 else chunk
                number, rest = number + chunk.count(b"\n"), tail
            else:
                rest += block
    if len(rest) > _LONGEST_LINE:
        raise bad_line(path, number, f"longer than {_LONGEST_LINE} bytes", "pass the right --format")
    if rest:
        yield number, rest.removeprefix(_BOM) if number == 1 else rest


def head(path: str) -> list[str]:
    """The first lines of a file that are not blank."""
    _, chunk = next(chunks(path, _HEAD_BYTES), (1, b""))
    lines = [line.rstrip("\r") for line in chunk.decode(errors="replace").split("\n")[:1000] if line.strip()]
    if not lines:
        raise _empty(path)
    return lines


def lines_of(path: str, block_bytes: int, encoding: str = "utf-8") -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yield blocks of lines that are not blank, with their numbers."""
    is_empty = True
    for first, chunk in chunks(path, block_bytes):
        try:
            text = chunk.decode(encoding)
        except UnicodeDecodeError as error:
            raise bad_line(path, first + chunk.count(b"\n", 0, error.start), *NOT_UTF8) from None
        lines = pc.ascii_rtrim(pc.split_pattern(pa.array([text]), "\n").flatten(), "\r")
        is_filled = pc.not_equal(pc.ascii_trim(lines, " "), "")
        if pc.any(is_filled).as_py():
            is_empty = False
            yield lines.filter(is_filled), first + np.flatnonzero(is_filled)
    if is_empty:
        raise _empty(path)


def csv_records(path: str, delimiter: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield the records of a CSV file, header included, each with the number of the line where it begins."""
    reader = csv.reader(_text_lines(path), delimiter=delimiter, strict=strict)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise bad_line(path, line, f"not valid CSV ({error})", "is a quote not closed here?") from None


def _text_lines(path: str) -> Iterator[str]:
    for _, chunk in chunks(path, _HEAD_BYTES):
        for line in chunk.splitlines(keepends=True):
            yield line.decode(errors="surrogateescape")


def is_text(value: str) -> bool:
    """Whether all bytes that `value` was decoded from are UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_object(path: str, number: int, line: str) -> dict[str, Any]:
    """Parse a line that is a JSON object."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_line(path, number, f"not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise bad_line(path, number, "not a JSON object")
    return value


def python_dict(path: str, number: int, line: str) -> dict[str, Any]:
    """Parse a line that is a Python dict. Only literals are evaluated, so no code of the file runs."""
    try:
        value = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise bad_line(path, number, f"not a valid Python dict ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise bad_line(path, number, "not a Python dict")
    return value


def open_parquet(path: str) -> pq.ParquetFile:
    stream = open_file(path, seekable=True)
    try:
        return pq.ParquetFile(stream, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        problem = f"not a Parquet file, or a damaged one ({one_line(error)}); fetch it again or pass --format"
        raise AdarError(f"{path}: {problem}") from error
