"""Values of a source, converted to the canonical columns: user, item, rating, timestamp, row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from adar_ray.errors import one_line

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
_MOST_SECONDS = 10**11


class BadValueError(Exception):
    """A value that cannot be converted: its index in the batch, and what is wrong with it."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


def to_canonical(columns: dict[str, pa.Array], first_row: int) -> pa.Table:
    """Convert a batch of a source's columns to a `CANONICAL` table.

    Args:
        columns: user and item, and rating and timestamp if the source has them. Without ratings, the ratings
            are null; without times, `timestamp` is `row`.
        first_row: the number of rows before this batch.

    Raises:
        BadValueError: a value cannot be converted.
    """
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
    raise BadValueError(low, unexpected(name, column[low].as_py()))


def unexpected(name: str, value: object) -> str:
    """Say that a value of the canonical column `name` is missing or not what it has to be."""
    if value is None or not str(value).strip():
        return f"the {name} is missing"
    return f"the {name} {one_line(repr(value), 60)} is not {_EXPECTED[name]}"


def _require(holds: pa.Array) -> None:
    """Raise what Arrow's own conversions raise unless all values are true; null is not."""
    if not pc.all(holds, skip_nulls=False).as_py():
        raise pa.ArrowInvalid("a value is missing or out of range")


def _to_id(column: pa.Array) -> pa.Array:
    if not (pat.is_string(column.type) or pat.is_integer(column.type)):
        raise pa.ArrowInvalid(f"{column.type} is not a type for an id")
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
    """Convert whole numbers to seconds: they count seconds, milliseconds (as in Amazon 2023) or less."""
    # 1e11 seconds are the year 5138; the same number of milliseconds is 1973.
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
    # Arrow needs a time and a zone with every date, and no fractions in a type that counts seconds.
    for pattern, replacement in ((r"^([\d-]{10})$", r"\1T00:00"), (r"\.\d+", ""), (r"([T ][\d:]+)$", r"\1Z")):
        date = pc.replace_substring_regex(date, pattern, replacement)
    date = date.cast(pa.timestamp("s", "UTC")).cast(pa.int64())
    number = pc.coalesce(whole, pc.trunc(number).cast(pa.int64()))
    return pc.coalesce(_number_to_seconds(number), date)


_CONVERTERS = {"user": _to_id, "item": _to_id, "rating": _to_rating, "timestamp": _to_seconds}
