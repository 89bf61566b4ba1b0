"""Interaction sources in any format, read as a stream of Arrow tables with bounded memory.

Every reader below yields the columns it found together with the place of each row in the file: its line,
or its number where lines mean nothing (Parquet) or are only known after a second look (quoted CSV). The
rest is common: columns become the canonical ones, and a value that cannot be one is named by its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.types as pat

from adar_ray.data.files import (
    NOT_UTF8,
    bad_line,
    csv_records,
    is_text,
    lines_of,
    open_file,
    open_parquet,
)
from adar_ray.data.sources import (
    DELIMITERS,
    FIXED_COLUMNS,
    PARSERS,
    SourceFile,
    check_columns,
    column_names,
    match_columns,
)
from adar_ray.errors import AdarError, one_line

CANONICAL = pa.schema(
    {
        "user": pa.string(),
        "item": pa.string(),
        "rating": pa.float32(),
        "timestamp": pa.int64(),
        "row": pa.int64(),
    }
)

_EXPECTED = {
    "user": "text or a whole number",
    "item": "text or a whole number",
    "rating": "a number",
    "timestamp": "a time: seconds or milliseconds since 1970, not negative, or an ISO date",
}
_COPIES = 8  # what is read lives for a moment as bytes, lines, fields and columns as well
_SMALLEST_CSV_BLOCK = 1 << 20  # a CSV row has to fit in a block
_PARQUET_ROW_BYTES = 64  # about what a canonical row takes in memory
_MOST_SECONDS = 10**11

Batch = tuple[dict[str, pa.Array], np.ndarray]


class _BadValueError(Exception):
    """A value of a batch that cannot be read: where it is in the batch, and what is wrong with it."""

    def __init__(self, index: int, problem: str):
        super().__init__(problem)
        self.index = index


def read_tables(file: SourceFile, block_bytes: int = 32 << 20) -> Iterator[pa.Table]:
    """The interactions of a file as `CANONICAL` tables; `block_bytes` is about the memory this works in."""
    if file.columns is None:
        names = column_names(file.path, file.format)
        file = replace(file, columns=match_columns(file.path, names, None))
    rows = 0
    for columns, places in _READERS[file.format](file, max(1, block_bytes // _COPIES)):
        if not len(places):
            continue
        try:
            yield _canonical(columns, rows)
        except _BadValueError as bad:
            raise AdarError(f"{_place(file, int(places[bad.index]))}: {bad}; correct or remove it") from None
        rows += len(places)


def _read_delimited(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    """Lines whose fields are separated and never quoted."""
    names = column_names(file.path, file.format)
    check_columns(file.path, names, file.columns)
    header_lines = 0 if file.format in FIXED_COLUMNS else 1
    encoding = "latin-1" if file.format == "ml-1m" else "utf-8"
    for lines, numbers in lines_of(file.path, block_bytes, encoding):
        lines, numbers, header_lines = lines[header_lines:], numbers[header_lines:], 0
        delimiter = DELIMITERS.get(file.format)
        fields = pc.split_pattern(lines, delimiter) if delimiter else _words(lines)
        counts = pc.list_value_length(fields).to_numpy()
        wrong = np.flatnonzero(counts != len(names))
        if len(wrong):
            raise bad_line(file.path, numbers[wrong[0]], _wrong_count(counts[wrong[0]], len(names)))
        yield {key: pc.list_element(fields, names.index(name)) for key, name in file.columns.items()}, numbers


def _wrong_count(count: int, expected: int) -> str:
    return f"expected {expected} fields, found {count}"


def _read_user_items(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    for lines, numbers in lines_of(file.path, block_bytes):
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
    names = column_names(file.path, file.format)
    check_columns(file.path, names, file.columns)
    used = sorted(set(file.columns.values()))
    with open_file(file.path) as stream:
        source = _QuoteCounter(stream)
        try:
            reader = pacsv.open_csv(
                pa.PythonFile(source, "r"),
                pacsv.ReadOptions(use_threads=False, block_size=max(block_bytes, _SMALLEST_CSV_BLOCK)),
                pacsv.ParseOptions(delimiter=DELIMITERS[file.format], newlines_in_values=True),
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
    for line, fields in csv_records(file.path, DELIMITERS[file.format], strict=True):
        if len(fields) != len(names):
            raise bad_line(file.path, line, _wrong_count(len(fields), len(names)))
        if not all(is_text(fields[position]) for position in used):
            raise bad_line(file.path, line, *NOT_UTF8)


def _read_objects(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    for lines, numbers in lines_of(file.path, block_bytes):
        values: dict[str, list[str | None]] = {key: [] for key in file.columns}
        for line, number in zip(lines.to_pylist(), numbers, strict=True):
            record = PARSERS[file.format](file.path, number, line)
            for key, name in file.columns.items():
                values[key].append(_value_text(record.get(name), file.path, number, key))
        yield {key: pa.array(value, pa.string()) for key, value in values.items()}, numbers


def _value_text(value: object, path: str, number: int, key: str) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not (isinstance(value, float) and key in ("user", "item")):
        return repr(value)
    if value is None or (isinstance(value, str) and is_text(value)):
        return value
    raise bad_line(path, number, _not_expected(key, value))


def _read_parquet(file: SourceFile, block_bytes: int) -> Iterator[Batch]:
    parquet = open_parquet(file.path)
    check_columns(file.path, parquet.schema_arrow.names, file.columns)
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
        seconds = _number_to_seconds(column.cast(pa.int64()))
    else:
        seconds = _number_to_seconds(pc.trunc(column.cast(pa.float64())).cast(pa.int64()))
    _require(pc.greater_equal(seconds, 0))
    return seconds


def _number_to_seconds(number: pa.Array) -> pa.Array:
    """Seconds, of whole numbers that count seconds or, as Amazon 2023 does, thousandths of them (or less)."""
    # 1e11 seconds end in the year 5138, as many milliseconds ended in 1973.
    while pc.any(is_finer := pc.greater_equal(number, _MOST_SECONDS)).as_py():
        number = pc.if_else(is_finer, pc.divide(number, 1000), number)
    return number


def _text_to_seconds(text: pa.Array) -> pa.Array:
    is_whole = pc.ascii_is_decimal(text)
    if pc.all(is_whole, skip_nulls=False).as_py():
        return _number_to_seconds(text.cast(pa.int64()))
    is_date = pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d")
    missing = pa.scalar(None, pa.string())
    whole = pc.if_else(is_whole, text, missing).cast(pa.int64())
    number = pc.if_else(pc.or_(is_whole, is_date), missing, text).cast(pa.float64())
    date = pc.if_else(is_date, text, missing)
    # Arrow wants a time and a zone with every date, and no part of a second where it counts in seconds.
    for pattern, replacement in ((r"^([\d-]{10})$", r"\1T00:00"), (r"\.\d+", ""), (r"([T ][\d:]+)$", r"\1Z")):
        date = pc.replace_substring_regex(date, pattern, replacement)
    date = date.cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    number = pc.coalesce(whole, pc.trunc(number).cast(pa.int64()))
    return pc.coalesce(_number_to_seconds(number), date)


def _place(file: SourceFile, place: int) -> str:
    """File and line of a row as an editor shows them."""
    if file.format == "parquet":
        return f"{file.path}: row {place}"
    if _READERS[file.format] is _read_csv:  # record 0 is the header
        place = next(islice(csv_records(file.path, DELIMITERS[file.format], strict=False), place, None))[0]
    return f"{file.path}: line {place}"


_CONVERTERS = {"user": _to_id, "item": _to_id, "rating": _to_rating, "timestamp": _to_seconds}
_READERS: dict[str, Callable[[SourceFile, int], Iterator[Batch]]] = {
    **dict.fromkeys(("inter", "ml-100k", "ml-1m", "pairs"), _read_delimited),
    **dict.fromkeys(("amazon-2014", "amazon-2018", "checkins", "lastfm-1k"), _read_delimited),
    **dict.fromkeys(("ml-csv", "csv", "tsv"), _read_csv),
    "user-items": _read_user_items,
    "parquet": _read_parquet,
    **dict.fromkeys(PARSERS, _read_objects),
}
