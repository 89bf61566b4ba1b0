"""Times of a source as nanoseconds since 1970, at the resolution that the source has."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from adar_ray.errors import one_line

# Numbers count seconds, or, from these on, milliseconds, microseconds and nanoseconds: 1e11 seconds are the
# year 5138, the same number of milliseconds is 1973.
_FIRST_OF_UNIT = np.array([10**11, 10**14, 10**17])
_UNIT_NAMES = ("seconds", "milliseconds", "microseconds", "nanoseconds", "dates")
_UNITS = {"s": 0, "ms": 1, "us": 2, "ns": 3}
_DATE = 4
_NANOSECONDS = 10 ** np.array([9, 6, 3, 0])
_LAST = np.iinfo(np.int64).max // _NANOSECONDS  # the year 2262
# 20200131235959 would be the year 2610 in milliseconds.
_CALENDAR = r"^(19[7-9]|2[01]\d)\d(0[1-9]|1[0-2])\d{8}$"
_CALENDAR_FORMAT = "%Y%m%d%H%M%S"
# As seconds, 20200131 would be in August of 1970.
_DAY = r"^(19[7-9]\d|2[01]\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_DAY_FORMAT = "%Y%m%d"
_DECIMAL = pa.decimal128(37, 9)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


class TimeConverter:
    """Converts one column of times, batch by batch, in order.

    A column counts in one unit, which its first number tells unless it is given: a smaller number among
    milliseconds may be an old time in milliseconds or a time in seconds, and would be sorted wrongly.

    Args:
        unit: what numbers count; a key of `options.TIMESTAMP_UNITS`.
        format: how texts are written, for `strptime`.
    """

    def __init__(self, unit: str | None, format: str | None) -> None:
        self._given = None if unit is None else _UNITS[unit]
        self._unit = self._given
        self._format = format

    def convert(self, column: pa.Array) -> pa.Array:
        """Convert a column of numbers, texts, dates or timestamps to int64.

        Raises:
            ArrowException: a value is missing, is not a time, or counts in another unit.
        """
        kind = column.type
        if column.null_count:
            raise pa.ArrowInvalid("a time is missing")
        if self._format is not None:
            return _no_negative(_parse(column.cast(pa.string()), self._format))
        if pat.is_string(kind):
            return self._text(pc.ascii_trim_whitespace(column))
        if pat.is_timestamp(kind):
            return _no_negative(column.cast(pa.timestamp("ns", kind.tz)).cast(pa.int64()))
        if pat.is_date(kind):
            return _no_negative(column.cast(pa.timestamp("ns")).cast(pa.int64()))
        if pat.is_integer(kind):
            return self._whole(column.cast(pa.int64()))
        return self._fractional(column.cast(_DECIMAL))

    @property
    def unit(self) -> str | None:
        """What the column counts in, as far as it has been seen."""
        return None if self._unit is None else _UNIT_NAMES[self._unit]

    def problem(self, value: object) -> str:
        """What is wrong with a value that `convert` refuses."""
        shown = one_line(repr(value), 60)
        if self._format is not None:
            return f"the timestamp {shown} does not have the --timestamp-format {self._format!r}"
        if self._given is None and self._unit is not None:
            unit, self._unit = self._unit, None
            try:
                self.convert(pa.array([value]))
            except pa.ArrowException:
                pass
            else:
                return f"the timestamp {shown} is not in {_UNIT_NAMES[unit]} as those before it"
            finally:
                self._unit = unit
        return (
            f"the timestamp {shown} is not a time: a number of s, ms, us or ns since 1970, not negative, or "
            "an ISO date (--timestamp-unit and --timestamp-format read others)"
        )

    def _text(self, text: pa.Array) -> pa.Array:
        if pc.all(pc.ascii_is_decimal(text), min_count=0).as_py():
            return self._whole(text.cast(pa.int64()))
        if pc.all(pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d")).as_py():
            return self._dates(_iso(text))
        # Arrow refuses digits that the type cannot hold.
        return self._fractional(pc.replace_substring_regex(text, r"^(\d+\.\d{9})\d+$", r"\1").cast(_DECIMAL))

    def _dates(self, nanoseconds: pa.Array) -> pa.Array:
        self._check_unit(np.array([_DATE]))
        return _no_negative(nanoseconds)

    def _whole(self, number: pa.Array) -> pa.Array:
        return self._scaled(number, np.zeros(len(number), np.int64))

    def _fractional(self, number: pa.Array) -> pa.Array:
        whole = pc.floor(number)
        billionths = pc.multiply(pc.subtract(number, whole).cast(pa.float64()), 1e9)
        return self._scaled(whole.cast(pa.int64()), np.rint(billionths.to_numpy()).astype(np.int64))

    def _scaled(self, whole: pa.Array, billionths: np.ndarray) -> pa.Array:
        """Nanoseconds of numbers, given as whole numbers and billionths."""
        number = whole.to_numpy()
        if self._given is None and _are_days(whole, billionths):
            return self._dates(_parse(whole.cast(pa.string()), _DAY_FORMAT))
        if self._given is None:
            unit = np.searchsorted(_FIRST_OF_UNIT, number, side="right")
        else:
            unit = np.full(len(number), self._given)
        if (number < 0).any() or (number >= _LAST[unit]).any():
            text = whole.cast(pa.string())
            if self._given is None and pc.all(pc.match_substring_regex(text, _CALENDAR)).as_py():
                return self._dates(_parse(text, _CALENDAR_FORMAT))
            raise pa.ArrowInvalid("not a time")
        self._check_unit(unit)
        scale = _NANOSECONDS[unit]
        return pa.array(number * scale + billionths * scale // 10**9)

    def _check_unit(self, units: np.ndarray) -> None:
        if self._unit is None and len(units):
            self._unit = int(units[0])
        if (units != self._unit).any():
            raise pa.ArrowInvalid("several units")


def _are_days(whole: pa.Array, billionths: np.ndarray) -> bool:
    number = whole.to_numpy()
    if not len(number) or number.min() < 19700101 or number.max() > 21991231 or billionths.any():
        return False  # without a look at each number's digits
    return bool(pc.all(pc.match_substring_regex(whole.cast(pa.string()), _DAY)).as_py())


def _no_negative(nanoseconds: pa.Array) -> pa.Array:
    if not pc.all(pc.greater_equal(nanoseconds, 0), skip_nulls=False, min_count=0).as_py():
        raise pa.ArrowInvalid("not a time")
    return nanoseconds


def _iso(text: pa.Array) -> pa.Array:
    """Nanoseconds of ISO dates. Arrow needs a time and a zone with every date, and at most nine digits."""
    for pattern, replacement in (
        (r" ?UTC$", "Z"),
        (r"^([\d-]{10})$", r"\1T00:00"),
        (r"(\.\d{9})\d+", r"\1"),
        (r"([T ][\d:.]+)$", r"\1Z"),
    ):
        text = pc.replace_substring_regex(text, pattern, replacement)
    return text.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())


def _parse(text: pa.Array, format: str) -> pa.Array:
    """Nanoseconds of texts in a given format; a time without a zone is in UTC."""
    if re.search("%[fzZ]", format):  # Arrow's strptime knows neither fractions nor zones
        encoded = text.dictionary_encode()
        moments = [_moment(value, format) for value in encoded.dictionary.to_pylist()]
        return pa.array(moments, pa.int64()).take(encoded.indices)
    times = pc.strptime(text, format=format, unit="ns", error_is_null=False)
    # Arrow takes the 31st of February for the 2nd or 3rd of March.
    for value in text.filter(pc.less_equal(pc.day(times), 3)).unique().to_pylist():
        try:
            datetime.datetime.strptime(value, format)
        except ValueError as error:
            if "does not match" not in str(error):  # Arrow's strptime takes more blanks than Python's
                raise pa.ArrowInvalid(str(error)) from None
    return times.cast(pa.int64())


def _moment(text: str, format: str) -> int:
    try:
        moment = datetime.datetime.strptime(text, format)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    # Python takes the names of this machine's own zone, too, and forgets them.
    if "%Z" in format and not re.search(r"\b(UTC|GMT)\b", text):
        raise pa.ArrowInvalid("a zone that is called neither UTC nor GMT; write it as a number, for %z")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
