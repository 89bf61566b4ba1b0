"""Values of a source, converted to the canonical columns: user, item, rating, timestamp, row, and weight if
there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from adar_ray.data.bad_rows import BadRows
from adar_ray.data.options import ReadOptions
from adar_ray.data.times import TimeConverter
from adar_ray.errors import one_line
from adar_ray.limits import LARGEST_WEIGHT, SMALLEST_WEIGHT

CANONICAL = pa.schema(
    {
        "user": pa.string(),
        "item": pa.string(),
        "rating": pa.float32(),
        "timestamp": pa.int64(),  # nanoseconds since 1970
        "row": pa.int64(),
    }
)
WEIGHT = pa.field("weight", pa.float32())
NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
"""A text that is a number."""

# By bits. Beyond these, floating point skips whole numbers.
_LARGEST_WHOLE_FLOAT = {16: 2.0**11, 32: 2.0**24, 64: 2.0**53}
OnBadValue = Callable[[int, str], None]
"""Takes the index of a row and what is wrong with it."""


class ValueConverter:
    """Converts the columns of one file, batch by batch, in order."""

    def __init__(self, options: ReadOptions) -> None:
        self.times = TimeConverter(options.timestamp_unit, options.timestamp_format)
        words = {form for word in options.null_words for form in _forms(word)}
        self._null_words = pa.array(sorted(words), pa.string())

    def to_canonical(self, columns: dict[str, pa.Array], first_row: int, on_bad: OnBadValue) -> pa.Table:
        """Convert a batch to a `CANONICAL` table, without its bad rows.

        Args:
            columns: user and item, and rating, timestamp and weight if the source has them. Without ratings,
                the ratings are null; without times, `timestamp` is `row`; without weights, there is no
                column of them.
            first_row: the number of good rows before this batch.
            on_bad: called for each row that has a bad value, once.
        """
        converted = self.convert(columns, on_bad)
        count = len(converted["user"])
        converted["row"] = pa.array(np.arange(first_row, first_row + count))
        converted.setdefault("timestamp", converted["row"])
        converted.setdefault("rating", pa.nulls(count, pa.float32()))
        schema = CANONICAL.append(WEIGHT) if "weight" in columns else CANONICAL
        return pa.table(converted).select(schema.names).cast(schema)

    def convert(self, columns: dict[str, pa.Array], on_bad: OnBadValue) -> dict[str, pa.Array]:
        """Convert the columns of a batch, without its bad rows; a `title` is text.

        Args:
            on_bad: called for each row that has a bad value, once.
        """
        plain = {name: _plain(column) for name, column in columns.items()}
        converted, bad = self._convert_all(plain, on_bad)
        if bad:
            is_good = np.ones(len(plain["item"]), dtype=bool)
            is_good[list(bad)] = False
            good = {name: column.filter(pa.array(is_good)) for name, column in plain.items()}
            converted, _ = self._convert_all(good, on_bad)
        return converted

    def _convert_all(
        self, columns: dict[str, pa.Array], on_bad: OnBadValue
    ) -> tuple[dict[str, pa.Array], set[int]]:
        converted: dict[str, pa.Array] = {}
        bad: set[int] = set()
        for name, column in columns.items():
            convert = self._converter(name)
            try:
                converted[name] = convert(column)
            except pa.ArrowException:
                for index in _bad_values(column, convert):
                    if index not in bad:
                        bad.add(index)
                        on_bad(index, self._problem(name, python_value(column[index])))
        return converted, bad

    def _converter(self, name: str) -> Callable[[pa.Array], pa.Array]:
        if name == "timestamp":
            return self.times.convert
        if name == "title":
            return lambda column: column.cast(pa.string())
        numbers = {"rating": _to_rating, "weight": _to_weight}
        return numbers.get(name, self._to_id)

    def _to_id(self, column: pa.Array) -> pa.Array:
        text = id_text(column)
        _require(pc.not_equal(pc.utf8_trim_whitespace(text), ""))
        if len(self._null_words):
            _require(pc.invert(self.stands_for_nothing(text)))
        return text

    def stands_for_nothing(self, text: pa.Array) -> pa.Array:
        """Whether texts are words that stand for no value."""
        return pc.is_in(text, value_set=self._null_words)

    def _problem(self, name: str, value: object) -> str:
        is_number = name in ("rating", "weight")
        is_missing = value is None or not str(value).strip() or (not is_number and value != value)
        if name == "timestamp":
            advice = "; --columns timestamp= does without" if is_missing else ""
            return "the timestamp is missing" + advice if is_missing else self.times.problem(value)
        if is_missing:
            return f"the {name} is missing"
        if not is_number and str(value) in self._null_words.to_pylist():
            return f"the {name} {value!r} stands for no value (--null-words says which words do)"
        expected = "a number" if is_number else "text or a whole number"
        if name == "weight":
            expected += f" from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}"
        return f"the {name} {one_line(repr(value), 60)} is not {expected}"


def into_bad_rows(bad: BadRows, columns: Mapping[str, pa.Array], places: np.ndarray) -> OnBadValue:
    """What adds a row to the bad ones, with what it holds.

    Args:
        columns: of the rows, as the file has them.
        places: the number of each row in the file.
    """

    def on_bad(index: int, problem: str) -> None:
        held = ", ".join(f"{name}={python_value(column[index])}" for name, column in columns.items())
        bad.add(int(places[index]), problem, held)

    return on_bad


def python_value(scalar: pa.Scalar) -> object:
    """A value as Python has it, or as text where Python has no such value, such as a time beyond 9999."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return f"(a {scalar.type} that cannot be shown)"


def _bad_values(column: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> Iterator[int]:
    """The indices of the values that cannot be converted, by bisection, in order."""
    ranges = [(0, len(column))]
    while ranges:
        low, high = ranges.pop()
        try:
            convert(column[low:high])
        except pa.ArrowException:
            if high - low == 1:
                yield low
            else:
                middle = (low + high) // 2
                ranges += [(middle, high), (low, middle)]


def _plain(column: pa.Array) -> pa.Array:
    """The column as one of the types that the conversions know."""
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_large_string(column.type) or pat.is_string_view(column.type):
        return column.cast(pa.string())
    return column


def _require(holds: pa.Array) -> None:
    """Raise what Arrow's own conversions raise unless all values are true; null is not."""
    if not pc.all(holds, skip_nulls=False, min_count=0).as_py():
        raise pa.ArrowInvalid("a value is missing or out of range")


def id_text(column: pa.Array) -> pa.Array:
    """Ids as text; raises what Arrow raises if a value is no id."""
    kind = column.type
    if pat.is_floating(kind):  # pandas turns whole numbers into floats where one is missing
        _require(pc.less_equal(pc.abs(column.cast(pa.float64())), _LARGEST_WHOLE_FLOAT[kind.bit_width]))
        return column.cast(pa.int64()).cast(pa.string())
    if pat.is_decimal(kind):  # databases write whole numbers as decimals; the cast refuses fractions
        return column.cast(pa.decimal256(76, 0)).cast(pa.string())
    if pat.is_binary(kind) or pat.is_large_binary(kind):
        return column.cast(pa.string())  # Impala's and old Spark's text; the cast checks UTF-8
    if not (pat.is_string(kind) or pat.is_integer(kind)):
        raise pa.ArrowInvalid(f"{kind} is not a type for an id")
    return column.cast(pa.string())


def _to_rating(column: pa.Array) -> pa.Array:
    if pat.is_string(column.type):
        column = pc.ascii_trim_whitespace(column)
    rating = column.cast(pa.float32(), safe=False)
    _require(pc.is_finite(rating))
    return rating


def _to_weight(column: pa.Array) -> pa.Array:
    weight = _to_rating(column)
    _require(pc.and_(pc.greater_equal(weight, SMALLEST_WEIGHT), pc.less_equal(weight, LARGEST_WEIGHT)))
    return weight


def _forms(word: str) -> set[str]:
    return {word, word.lower(), word.upper(), word.title(), "NaN" if word.lower() == "nan" else word}
