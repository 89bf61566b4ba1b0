"""Interaction sources in any format, read as a stream of Arrow tables with bounded memory.

Every reader below yields the columns it found together with the place of each row in the file: its line,
or its number where lines mean nothing (Parquet) or are only known after a second look (quoted CSV). The
rest is common: columns become the canonical ones, and a value that cannot be one is named by its place.
"""

from __future__ import annotations

import csv
import fnmatch
import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pyarrow.types as pat

from adar_ray.errors import AdarError, one_line
from adar_ray.storage import resolve

CANONICAL = pa.schema(
    {
        "user": pa.string(),
        "item": pa.string(),
        "rating": pa.float32(),
        "timestamp": pa.int64(),
        "row": pa.int64(),
    }
)

FORMATS: dict[str, str] = {
    "inter": "RecBole: tab-separated with a typed header (user_id:token item_id:token ...)",
    "ml-100k": "MovieLens 100K, u.data: user, item, rating, timestamp separated by tabs, no header",
    "ml-1m": "MovieLens 1M and 10M, ratings.dat: user::item::rating::timestamp",
    "ml-csv": "MovieLens 20M and later, ratings.csv: userId,movieId,rating,timestamp",
    "user-items": "LightGCN, train.txt and test.txt: one line a user, `user item item ...`",
    "pairs": "SASRec: one line an interaction, `user item`, each user's in time order",
    "csv": "comma-separated with a header",
    "tsv": "tab-separated with a header",
    "parquet": "Parquet",
    "jsonl": "one JSON object a line",
}

# Column names that need no --columns, compared in lower case without separators; the first found wins.
_USUAL_NAMES = {
    "user": ("userid", "user", "uid"),
    "item": ("itemid", "item", "iid", "movieid", "productid", "bookid", "artistid", "trackid", "songid"),
    "rating": ("rating",),
    "timestamp": ("timestamp", "time", "unixreviewtime"),
}
_RATING_COLUMNS = ["user", "item", "rating", "timestamp"]
_FIXED_COLUMNS = {"ml-100k": _RATING_COLUMNS, "ml-1m": _RATING_COLUMNS}
_FIXED_COLUMNS |= {"user-items": ["user", "item"], "pairs": ["user", "item"]}
# The names of each format's files in a folder; a pattern of the first five is used by no other format.
_FILE_NAMES = {
    "inter": ("*.inter",),
    "ml-100k": ("u.data",),
    "ml-1m": ("ratings.dat",),
    "ml-csv": ("ratings.csv",),
    "user-items": ("train*.txt", "valid*.txt", "test*.txt"),
    "csv": ("*.csv",),
    "tsv": ("*.tsv",),
    "parquet": ("*.parquet", "*.pq"),
    "jsonl": ("*.jsonl", "*.ndjson", "*.json"),
}
_TELLING = ("inter", "ml-100k", "ml-1m", "ml-csv", "user-items")
# The formats that a whole name, or its ending, gives away.
_BY_NAME = {"u.data": "ml-100k", "ratings.dat": "ml-1m", "inter": "inter", "csv": "csv", "tsv": "tsv"}
_BY_NAME |= {"parquet": "parquet", "pq": "parquet", "jsonl": "jsonl", "ndjson": "jsonl"}
_DATA_NAMES = re.compile(r"(?!readme|license|_).*\.(inter|csv|tsv|txt|dat|data|jsonl?|ndjson|parquet|pq)")
_DELIMITERS = {"inter": "\t", "ml-100k": "\t", "ml-1m": "::", "csv": ",", "ml-csv": ",", "tsv": "\t"}

_EXPECTED = {
    "user": "text or a whole number",
    "item": "text or a whole number",
    "rating": "a number",
    "timestamp": "a time: seconds since 1970, not negative, or an ISO date",
}
_NOT_UTF8 = ("not UTF-8", "convert the file, for instance with iconv")
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
_LONGEST_LINE = 1 << 28
_COPIES = 8  # what is read lives for a moment as bytes, lines, fields and columns as well
_SMALLEST_CSV_BLOCK = 1 << 20  # a CSV row has to fit in a block
_PARQUET_ROW_BYTES = 64  # about what a canonical row takes in memory

Batch = tuple[dict[str, pa.Array], np.ndarray]


@dataclass(frozen=True)
class SourceFile:
    """One file of a source. `find_files` makes them; they travel to the tasks that read them.

    `columns` names the file's column for each of user, item, rating and timestamp that the source has.
    """

    path: str
    format: str
    split: str | None = None
    columns: dict[str, str] | None = None

    @property
    def has_time(self) -> bool:
        """Whether `timestamp` is the source's own, not the position in the file."""
        return "timestamp" in (self.columns or {})

    @property
    def has_rating(self) -> bool:
        return "rating" in (self.columns or {})


class _BadValueError(Exception):
    """A value of a batch that cannot be read: where it is in the batch, and what is wrong with it."""

    def __init__(self, index: int, problem: str):
        super().__init__(problem)
        self.index = index


def find_files(
    source: str, format: str | None = None, columns: dict[str, str] | None = None
) -> list[SourceFile]:
    """The interaction files of a file, folder, glob or address, sorted by path and all of one format.

    `columns` gives names for what the file calls otherwise: {"user": "reviewerID", "item": "asin"}.
    """
    if format is not None and format not in FORMATS:
        raise AdarError(f"unknown format {format!r}; the known ones are {', '.join(FORMATS)}")
    paths, is_folder = _list(source)
    if is_folder:
        paths = _choose(source, paths, format)
    formats = {path: format or _recognise(path) for path in paths}
    if len(set(formats.values())) > 1:
        kinds = ", ".join(f"{_name(path)} ({kind})" for path, kind in list(formats.items())[:5])
        raise AdarError(f"{source}: files of different formats: {kinds}; name one file, a glob or --format")
    first, format = next(iter(formats.items()))
    columns = _match_columns(first, _column_names(first, format), columns)
    return [
        SourceFile(path, format, _split(path) if format == "user-items" else None, columns) for path in paths
    ]


def read_tables(file: SourceFile, block_bytes: int = 32 << 20) -> Iterator[pa.Table]:
    """The interactions of a file as `CANONICAL` tables; `block_bytes` is about the memory this works in."""
    if file.columns is None:
        names = _column_names(file.path, file.format)
        file = replace(file, columns=_match_columns(file.path, names, None))
    rows = 0
    for columns, places in _READERS[file.format](file, max(1, block_bytes // _COPIES)):
        if not len(places):
            continue
        try:
            yield _canonical(columns, rows)
        except _BadValueError as bad:
            raise AdarError(f"{_place(file, int(places[bad.index]))}: {bad}; correct or remove it") from None
        rows += len(places)


# --- finding files -----------------------------------------------------------------------------------


def _list(source: str) -> tuple[list[str], bool]:
    """Addresses of the files that `source` names, sorted, and whether it is a folder."""
    base, query = _without_query(source)
    is_local = "://" not in source
    root, pattern = base, "*"
    wild = re.search(r"[*?\[]", base)
    if wild and not (is_local and Path(source).expanduser().exists()):
        root = base[: base.rfind("/", 0, wild.start()) + 1]
        pattern = base[len(root) :]
    filesystem, path = resolve((root or ".") + query)
    path = path.rstrip("/") or "/"
    try:
        info = filesystem.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise AdarError(f"{source}: no such file or folder; check the address")
        if info.type == pafs.FileType.File:
            return [path if is_local else source], False
        found = filesystem.get_file_info(pafs.FileSelector(path, recursive="/" in pattern))
    except OSError as error:
        raise _unreadable(source, error) from error
    addresses = []
    for info in found:
        relative = posixpath.relpath(info.path, path)
        if info.is_file and not info.base_name.startswith(".") and _matches(relative, pattern):
            # Arrow decodes an address; fsspec takes it literally.
            name = relative if isinstance(filesystem, pafs.PyFileSystem) else quote(relative)
            addresses.append(info.path if is_local else f"{root.rstrip('/')}/{name}{query}")
    if not addresses:
        raise AdarError(f"{source}: no file there; check the address")
    return sorted(addresses), root == base


def _matches(relative: str, pattern: str) -> bool:
    names, patterns = relative.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def _without_query(address: str) -> tuple[str, str]:
    """An address and its options (s3://bucket/folder?region=...); a local path has none."""
    found = re.search(r"\?\w+=", address) if "://" in address else None
    return (address[: found.start()], address[found.start() :]) if found else (address, "")


def _name(path: str) -> str:
    """File name in lower case, without the ending of a compression."""
    name = _without_query(path)[0].rpartition("/")[2].lower()
    return re.sub(r"\.(gz|zst|bz2)$", "", name)


def _choose(source: str, paths: list[str], format: str | None) -> list[str]:
    """The files of a folder that hold interactions."""
    data = [path for path in paths if _DATA_NAMES.fullmatch(_name(path))]
    named = {
        format: [path for path in data if any(fnmatch.fnmatchcase(_name(path), name) for name in names)]
        for format, names in _FILE_NAMES.items()
    }
    kinds = [format] if format else [kind for kind in _TELLING if named[kind]]
    if len(kinds) > 1:
        raise AdarError(f"{source}: several sources in a folder; pass --format, one of {', '.join(kinds)}")
    chosen = (named.get(kinds[0]) if kinds else None) or data
    if not chosen:
        raise AdarError(f"{source}: no file of interactions in this folder; name the file itself")
    twice = [name for name, times in Counter(map(_name, chosen)).items() if times > 1]
    if twice:
        raise AdarError(f"{source}: {twice[0]} is there compressed and not; remove one of the two")
    return chosen


def _split(path: str) -> str | None:
    """The split that the name of a file gives."""
    found = re.match("train|valid|test", _name(path))
    return found[0] if found else None


# --- recognising formats -----------------------------------------------------------------------------


def _recognise(path: str) -> str:
    """The format of a file by its name, or by its first lines where the name says nothing."""
    name = _name(path)
    format = _BY_NAME.get(name) or _BY_NAME.get(name.rpartition(".")[2])
    if format is None:
        return _recognise_lines(path, _head(path))
    is_movielens = format == "csv" and _head(path)[0] == "userId,movieId,rating,timestamp"
    return "ml-csv" if is_movielens else format


def _recognise_lines(path: str, lines: list[str]) -> str:
    def all_match(pattern: str) -> bool:
        return all(re.fullmatch(pattern, line) for line in lines)

    hint = ""
    if lines[0].startswith("PAR1"):
        return "parquet"
    if re.fullmatch(r"\S+:(token|float)(_seq)?(\t\S+:(token|float)(_seq)?)+", lines[0]):
        return "inter"
    if all_match(r"\d+::\d+::[\d.]+::\d+"):
        return "ml-1m"
    if all_match(r"\d+\t\d+\t[\d.]+\t\d+"):
        return "ml-100k"
    if re.fullmatch(r"\{.*\}", lines[0]):
        return "jsonl"
    if all_match(r"\s*\d+(\s+\d+)*\s*"):
        users = [line.split()[0] for line in lines]
        is_split = _split(path) is not None
        could_be_pairs = all(len(line.split()) == 2 for line in lines)
        # A line a user names no user twice; pairs do as soon as somebody has a second item.
        if not could_be_pairs or (is_split and len(set(users)) == len(users)):
            return "user-items"
        if not is_split and len(set(users)) < len(users):
            return "pairs"
        hint = " between user-items and pairs"
    raise AdarError(f"{path}: cannot tell its format{hint}; pass --format, one of {', '.join(FORMATS)}")


def _column_names(path: str, format: str) -> list[str]:
    """The columns of a file, without their types."""
    if format in _FIXED_COLUMNS:
        return _FIXED_COLUMNS[format]
    if format == "parquet":
        return _open_parquet(path).schema_arrow.names
    first = _head(path)[0]
    if format == "jsonl":
        return list(_json_object(path, 1, first))
    if format == "inter":
        return [name.partition(":")[0] for name in first.split("\t")]
    return next(_csv_records(path, format, strict=True))[1]


def _match_columns(path: str, names: list[str], given: dict[str, str] | None) -> dict[str, str]:
    """The file's column for each canonical one: those given, and the usual names for the others."""
    given = given or {}
    for key in given:
        if key not in _USUAL_NAMES:
            raise AdarError(f"--columns: unknown key {key!r}; the keys are {', '.join(_USUAL_NAMES)}")
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in reversed(names)}
    columns = {}
    for key, choices in _USUAL_NAMES.items():
        name = given.get(key) or next((plain[choice] for choice in choices if choice in plain), None)
        if name is not None:
            columns[key] = name
    for key in ("user", "item"):
        if key not in columns:
            there = one_line(", ".join(names))
            remedy = "say which, for instance --columns user=reviewerID,item=asin,timestamp=unixReviewTime"
            raise AdarError(f"{path}: no column for the {key} among {there}; {remedy}")
    _check_columns(path, names, columns)
    return columns


def _check_columns(path: str, names: list[str], columns: dict[str, str]) -> None:
    for name in columns.values():
        if names.count(name) != 1:
            problem = f"column {name!r} is there twice" if name in names else f"there is no column {name!r}"
            raise AdarError(f"{path}: {problem}; its columns are {one_line(', '.join(names))}; see --columns")


# --- text --------------------------------------------------------------------------------------------


def _open(path: str, *, seekable: bool = False) -> pa.NativeFile:
    """A file that is there and has bytes; a stream is decompressed as the ending of its name says."""
    filesystem, inner = resolve(path)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == pafs.FileType.NotFound:
            raise AdarError(f"{path}: no such file or folder; check the address")
        if info.size == 0:
            raise _empty(path)
        return filesystem.open_input_file(inner) if seekable else filesystem.open_input_stream(inner)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> AdarError:
    return AdarError(f"{path}: cannot be read ({one_line(error)}); check the address and your access to it")


def _bad_line(path: str, number: int, problem: str, remedy: str = "correct or remove this line") -> AdarError:
    return AdarError(f"{path}: line {number}: {problem}; {remedy}")


def _empty(path: str) -> AdarError:
    return AdarError(f"{path}: the file is empty; remove it or fetch it again")


def _chunks(path: str, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a text file, about `block_bytes` at a time, with the number of the first of them."""
    number, rest = 1, b""
    with _open(path) as stream:
        while True:
            try:
                block = stream.read(block_bytes)
            except OSError as error:
                problem = f"cut off or damaged ({one_line(error)})"
                raise _bad_line(path, number, problem, "fetch the file again") from error
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
        raise _bad_line(path, number, f"longer than {_LONGEST_LINE} bytes", "pass the right --format")
    if rest:
        yield number, rest.removeprefix(_BOM) if number == 1 else rest


def _head(path: str) -> list[str]:
    """The first lines of a file that say something."""
    _, chunk = next(_chunks(path, _HEAD_BYTES), (1, b""))
    lines = [line.rstrip("\r") for line in chunk.decode(errors="replace").split("\n")[:1000] if line.strip()]
    if not lines:
        raise _empty(path)
    return lines


def _lines(path: str, block_bytes: int, encoding: str = "utf-8") -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Lines that are not blank, with their numbers."""
    is_empty = True
    for first, chunk in _chunks(path, block_bytes):
        try:
            text = chunk.decode(encoding)
        except UnicodeDecodeError as error:
            raise _bad_line(path, first + chunk.count(b"\n", 0, error.start), *_NOT_UTF8) from None
        lines = pc.ascii_rtrim(pc.split_pattern(pa.array([text]), "\n").flatten(), "\r")
        is_filled = pc.not_equal(pc.ascii_trim(lines, " "), "")
        if pc.any(is_filled).as_py():
            is_empty = False
            yield lines.filter(is_filled), first + np.flatnonzero(is_filled)
    if is_empty:
        raise _empty(path)


def _read_delimited(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    """Lines whose fields are separated and never quoted."""
    names = _column_names(file.path, file.format)
    _check_columns(file.path, names, file.columns)
    header_lines = 0 if file.format in _FIXED_COLUMNS else 1
    encoding = "latin-1" if file.format == "ml-1m" else "utf-8"
    for lines, numbers in _lines(file.path, block_bytes, encoding):
        lines, numbers, header_lines = lines[header_lines:], numbers[header_lines:], 0
        delimiter = _DELIMITERS.get(file.format)
        fields = pc.split_pattern(lines, delimiter) if delimiter else _words(lines)
        counts = pc.list_value_length(fields).to_numpy()
        wrong = np.flatnonzero(counts != len(names))
        if len(wrong):
            raise _bad_line(file.path, numbers[wrong[0]], _wrong_count(counts[wrong[0]], len(names)))
        yield {key: pc.list_element(fields, names.index(name)) for key, name in file.columns.items()}, numbers


def _wrong_count(count: int, expected: int) -> str:
    return f"expected {expected} fields, found {count}"


def _read_user_items(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    for lines, numbers in _lines(file.path, block_bytes):
        fields = _words(lines)
        counts = pc.list_value_length(fields).to_numpy()
        words = fields.flatten()
        is_item = np.ones(len(words), dtype=bool)
        is_item[np.cumsum(counts) - counts] = False  # the first of each line is its user
        line = np.repeat(np.arange(len(counts)), counts - 1)
        yield {"user": pc.list_element(fields, 0).take(line), "item": words.filter(is_item)}, numbers[line]


def _words(lines: pa.Array) -> pa.ListArray:
    # Only ASCII spaces part words: a no-break or ideographic space may belong to an id.
    return pc.ascii_split_whitespace(pc.ascii_trim_whitespace(lines))


# --- quoted CSV --------------------------------------------------------------------------------------


class _QuoteCounter:
    """A stream for Arrow that counts quotes: it takes a quote that never closes for the last value."""

    closed = False

    def __init__(self, stream: pa.NativeFile):
        self.stream = stream
        self.quotes = 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.quotes += data.count(b'"')
        return data


def _read_csv(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    names = _column_names(file.path, file.format)
    _check_columns(file.path, names, file.columns)
    used = sorted(set(file.columns.values()))
    with _open(file.path) as stream:
        source = _QuoteCounter(stream)
        try:
            reader = pacsv.open_csv(
                pa.PythonFile(source, "r"),
                pacsv.ReadOptions(use_threads=False, block_size=max(block_bytes, _SMALLEST_CSV_BLOCK)),
                pacsv.ParseOptions(delimiter=_DELIMITERS[file.format], newlines_in_values=True),
                pacsv.ConvertOptions(include_columns=used, column_types=dict.fromkeys(used, pa.string())),
            )
            yield from _numbered(reader, file.columns)
        except (pa.ArrowException, OSError) as error:
            _raise_csv_fault(file, names)
            raise AdarError(f"{file.path}: {one_line(error)}; correct the file") from error
    if source.quotes % 2:
        _raise_csv_fault(file, names)


def _raise_csv_fault(file: SourceFile, names: list[str]) -> None:
    """Reads the file again, slowly, and raises an error with the line where it stops being CSV."""
    used = [names.index(name) for name in file.columns.values()]
    for line, fields in _csv_records(file.path, file.format, strict=True):
        if len(fields) != len(names):
            raise _bad_line(file.path, line, _wrong_count(len(fields), len(names)))
        if not all(_is_text(fields[position]) for position in used):
            raise _bad_line(file.path, line, *_NOT_UTF8)


def _csv_records(path: str, format: str, *, strict: bool) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV file, its header too, each with the number of the line where it begins."""
    reader = csv.reader(_text_lines(path), delimiter=_DELIMITERS[format], strict=strict)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise _bad_line(path, line, f"not valid CSV ({error})", "is a quote not closed here?") from None


def _text_lines(path: str) -> Iterator[str]:
    for _, chunk in _chunks(path, _HEAD_BYTES):
        for line in chunk.splitlines(keepends=True):
            yield line.decode(errors="surrogateescape")


def _is_text(value: str) -> bool:
    """Whether all of the bytes that `value` was decoded from are UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- JSON lines and Parquet --------------------------------------------------------------------------


def _read_jsonl(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    for lines, numbers in _lines(file.path, block_bytes):
        values: dict[str, list[str | None]] = {key: [] for key in file.columns}
        for line, number in zip(lines.to_pylist(), numbers, strict=True):
            record = _json_object(file.path, number, line)
            for key, name in file.columns.items():
                values[key].append(_json_text(record.get(name), file.path, number, key))
        yield {key: pa.array(value, pa.string()) for key, value in values.items()}, numbers


def _json_object(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad_line(path, number, f"not valid JSON ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise _bad_line(path, number, "not a JSON object")
    return value


def _json_text(value: object, path: str, number: int, key: str) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not (isinstance(value, float) and key in ("user", "item")):
        return repr(value)
    if value is None or (isinstance(value, str) and _is_text(value)):
        return value
    raise _bad_line(path, number, _not_expected(key, value))


def _read_parquet(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    parquet = _open_parquet(file.path)
    _check_columns(file.path, parquet.schema_arrow.names, file.columns)
    rows = max(1, block_bytes // _PARQUET_ROW_BYTES)
    try:
        batches = parquet.iter_batches(rows, columns=sorted(set(file.columns.values())))
        yield from _numbered(batches, file.columns)
    except (pa.ArrowException, OSError) as error:
        raise AdarError(f"{file.path}: damaged ({one_line(error)}); fetch the file again") from error


def _numbered(batches: Iterable[pa.RecordBatch], columns: dict[str, str]) -> Iterator[Batch]:
    rows = 0
    for batch in batches:
        places = np.arange(rows + 1, rows + 1 + batch.num_rows)
        rows += batch.num_rows
        yield {key: batch.column(name) for key, name in columns.items()}, places


def _open_parquet(path: str) -> pq.ParquetFile:
    stream = _open(path, seekable=True)
    try:
        return pq.ParquetFile(stream, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        problem = f"not a Parquet file, or a damaged one ({one_line(error)}); fetch it again or pass --format"
        raise AdarError(f"{path}: {problem}") from error


# --- canonical columns -------------------------------------------------------------------------------


def _canonical(columns: dict[str, pa.Array], first_row: int) -> pa.Table:
    converted = {name: _convert(name, column) for name, column in columns.items()}
    count = len(converted["user"])
    converted["row"] = pa.array(np.arange(first_row, first_row + count))
    converted.setdefault("timestamp", converted["row"])
    converted.setdefault("rating", pa.nulls(count, pa.float32()))
    return pa.table(converted).select(CANONICAL.names).cast(CANONICAL)


def _convert(name: str, column: pa.Array) -> pa.Array:
    convert = _CONVERTERS[name]
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_large_string(column.type) or pat.is_string_view(column.type):
        column = column.cast(pa.string())
    try:
        return convert(column)
    except pa.ArrowException:
        low, high = 0, len(column)  # the first value that fails is in column[low:high]
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(column[low:middle])
            low = middle
        except pa.ArrowException:
            high = middle
    raise _BadValueError(low, _not_expected(name, column[low].as_py()))


def _not_expected(name: str, value: object) -> str:
    if value is None or not str(value).strip():
        return f"the {name} is missing"
    return f"the {name} {one_line(repr(value), 60)} is not {_EXPECTED[name]}"


def _require(holds: pa.Array) -> None:
    """Raises what Arrow's own conversions raise, unless all hold; null does not."""
    if not pc.all(holds, skip_nulls=False).as_py():
        raise pa.ArrowInvalid("a value is missing or out of range")


def _to_id(column: pa.Array) -> pa.Array:
    if not (pat.is_string(column.type) or pat.is_integer(column.type)):
        raise pa.ArrowInvalid(f"{column.type} is no type for an id")
    text = column.cast(pa.string())
    _require(pc.not_equal(pc.utf8_trim_whitespace(text), ""))
    return text


def _to_rating(column: pa.Array) -> pa.Array:
    if pat.is_string(column.type):
        column = pc.ascii_trim_whitespace(column)
    rating = column.cast(pa.float32(), safe=False)
    _require(pc.is_finite(rating))
    return rating


def _to_seconds(column: pa.Array) -> pa.Array:
    if pat.is_string(column.type):
        seconds = _text_to_seconds(pc.ascii_trim_whitespace(column))
    elif pat.is_timestamp(column.type):
        seconds = column.cast(pa.timestamp("s", column.type.tz), safe=False).cast(pa.int64())
    elif pat.is_date(column.type):
        seconds = column.cast(pa.timestamp("s")).cast(pa.int64())
    elif pat.is_integer(column.type):
        seconds = column.cast(pa.int64())
    else:
        seconds = pc.trunc(column.cast(pa.float64())).cast(pa.int64())
    _require(pc.greater_equal(seconds, 0))
    return seconds


def _text_to_seconds(text: pa.Array) -> pa.Array:
    is_whole = pc.ascii_is_decimal(text)
    if pc.all(is_whole, skip_nulls=False).as_py():
        return text.cast(pa.int64())
    is_date = pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d")
    missing = pa.scalar(None, pa.string())
    whole = pc.if_else(is_whole, text, missing).cast(pa.int64())
    number = pc.if_else(pc.or_(is_whole, is_date), missing, text).cast(pa.float64())
    date = pc.if_else(is_date, text, missing)
    # Arrow wants a time and a zone with every date, and no part of a second where it counts in seconds.
    for pattern, replacement in ((r"^([\d-]{10})$", r"\1T00:00"), (r"\.\d+", ""), (r"([T ][\d:]+)$", r"\1Z")):
        date = pc.replace_substring_regex(date, pattern, replacement)
    date = date.cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    return pc.coalesce(whole, date, pc.trunc(number).cast(pa.int64()))


def _place(file: SourceFile, place: int) -> str:
    """File and line of a row as an editor shows them."""
    if file.format == "parquet":
        return f"{file.path}: row {place}"
    if _READERS[file.format] is _read_csv:  # record 0 is the header
        place = next(islice(_csv_records(file.path, file.format, strict=False), place, None))[0]
    return f"{file.path}: line {place}"


_CONVERTERS = {"user": _to_id, "item": _to_id, "rating": _to_rating, "timestamp": _to_seconds}
_READERS: dict[str, Callable[[SourceFile, int], Iterator[Batch]]] = {
    **dict.fromkeys(("inter", "ml-100k", "ml-1m", "pairs"), _read_delimited),
    **dict.fromkeys(("ml-csv", "csv", "tsv"), _read_csv),
    "user-items": _read_user_items,
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
}
