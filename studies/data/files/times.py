"""Converts the time column of a file to UTC seconds.

Numbers count from 1970, in a unit that is given or told by their size. Everything else is a date, with or without a
time of day and a zone. A value that cannot be parsed becomes null; the caller reports its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl

from storage.errors import InputError
from studies.data.files.written_numbers import DecimalSign, plain_numbers

# Ticks of each unit in a second.
TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# Where the numbers of each unit begin and the last ends: 1e11 seconds are the year 5138, and 1e11 milliseconds 1973.
_LIMITS = (0.0, 1e11, 1e14, 1e17, float("inf"))
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Texts that mean a missing value: the empty field, and what pandas and databases write for it.
_MISSING = ["", "NaN", "null", "None", "<NA>", "NaT", "\\N"]
BLANKS = sorted({case(word) for word in _MISSING for case in (str, str.lower, str.upper, str.capitalize)})

_ISO = (
    r"^(\d{4}-\d\d-\d\d)"
    r"(?:[T ](\d\d:\d\d)(:\d\d)?(?:[.,]\d+)? ?(Z|z|[+-](?:0\d|1\d|2[0-3])(?::?[0-5]\d)?)?)?$"
)
# In 1990, in seconds: no shop's log is older.
_EARLIEST = 631_152_000.0
# Fewer numbers than this may follow each other by chance.
_FEW = 10
# Rows per step when text is parsed: the intermediate columns take several times the memory of the text.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Clock:
    """The format of a time column.

    Attributes:
        unit: Unit of numbers: "s", "ms", "us" or "ns"; None to tell it by their size.
        format: strptime format of text; None for ISO 8601.
        zone: IANA time zone of times that name none.
        decimal: Decimal sign of numbers that are text and do not tell it.
    """

    unit: str | None = None
    format: str | None = None
    zone: str = "UTC"
    decimal: DecimalSign = "."


class Times(NamedTuple):
    """A time column in UTC seconds.

    Attributes:
        seconds: Rounded down; null where the value is null or cannot be parsed.
        notes: On the unit where it was guessed.
        warnings: On numbers that are hardly times, and on zones that only some of the times name.
        foreign: Where a number has the size of another unit than the guessed one; None where none was guessed.
        unit: The guessed unit in words; else "".
    """

    seconds: pl.Series
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    foreign: pl.Series | None = None
    unit: str = ""


def tidy(raw: pl.Series) -> pl.Series:
    """Return the column with every missing value as null: NaN, empty text, "null" and the like."""
    if raw.dtype == pl.String:
        stripped = raw.str.strip_chars()
        return stripped.set(stripped.is_in(BLANKS), None)
    return raw.fill_nan(None) if raw.dtype.is_float() else raw


def to_seconds(raw: pl.Series, clock: Clock) -> Times:
    """Return a tidy time column in UTC seconds.

    Args:
        raw: Numbers, dates, datetimes or text; its name is the column's name in the file.
        clock: Its format.

    Raises:
        InputError: The column's type holds no times, or it holds dates written as one number (20240131).
    """
    if clock.format is not None and (raw.dtype.is_numeric() or raw.dtype == pl.String):
        digits = raw.cast(pl.Int64, strict=False) if raw.dtype.is_float() else raw
        return _in_steps(digits.cast(pl.String), clock)
    if raw.dtype.is_temporal() and raw.dtype not in (pl.Time, pl.Duration):
        return Times(_to_utc(raw.cast(pl.Datetime("us")) if raw.dtype == pl.Date else raw, clock.zone))
    if raw.dtype == pl.String:
        if not _is_numeric(plain_numbers(raw.drop_nulls().head(1000), clock.decimal)):
            return _in_steps(raw, clock)
        raw = plain_numbers(raw, clock.decimal)
    if raw.dtype.is_numeric() or raw.dtype in (pl.String, pl.Null):
        return _from_numbers(raw, clock)
    raise InputError(
        f'data.time = "{raw.name}" holds values of type {raw.dtype}; accepted are numbers, dates, datetimes and text: '
        "name another column"
    )


def check_format(form: str) -> None:
    """Check that a strptime format reads back the date that it wrote.

    Raises:
        ValueError: It lacks a part of the date, or has an unknown directive.
    """
    day = datetime(2024, 1, 31, 13, 45, 59, tzinfo=UTC)
    try:
        read = _strptime(pl.Series([day]).dt.to_string(form), form)
        readable = read.dt.date().to_list() == [day.date()]
    except pl.exceptions.PolarsError:
        readable = False
    if not readable:
        raise ValueError(
            f"{form!r} does not describe a date; accepted are strptime formats with year, month and day, "
            'such as "%d.%m.%Y %H:%M"'
        )


def _is_numeric(head: pl.Series) -> bool:
    """Return whether most of the first values are numbers: a few broken ones must not decide for the rest."""
    return head.cast(pl.Float64, strict=False).count() * 2 > len(head)


def _from_numbers(raw: pl.Series, clock: Clock) -> Times:
    real = raw.cast(pl.Float64, strict=False)
    if clock.unit is not None:
        return Times(_whole_seconds(raw, real, clock.unit))
    unit = _unit_of(real, raw.name)
    read = f'Numbers in "{raw.name}" were read as {_NAMES[unit]} since 1970, going by their size'
    warning = _no_times(real, unit, raw.name)
    notes = [] if warning else [f"{read}; data.time_unit says otherwise."]
    low, high = (_LIMITS[place] for place in (list(TICKS).index(unit), list(TICKS).index(unit) + 1))
    foreign = (real >= 0) & real.is_finite() & ((real < low) | (real >= high))
    warnings = [warning] if warning else []
    return Times(_whole_seconds(raw, real, unit), notes, warnings, foreign.fill_null(False), _NAMES[unit])


def _no_times(real: pl.Series, unit: str, name: str) -> str | None:
    """Return a warning where numbers are hardly times; None where they may be."""
    values = real.filter(real.is_finite()).to_numpy()
    if len(values) == 0:
        return None
    first, last = float(values.min()), float(values.max())
    remedy = (
        f'name the column of the time in data.time, or set data.time_unit = "{unit}" if these are {_NAMES[unit]} since '
        "1970."
    )
    if len(values) >= _FEW and last - first == len(values) - 1 == len(np.unique(values)) - 1:
        counted = f'"{name}" counts from {first:.0f} to {last:.0f} by one, as a row number does'
        return f"{counted}, and was read as time; {remedy}"
    if unit == "s" and float(np.median(values)) < _EARLIEST:
        return (
            f'"{name}" has numbers from {first:g} to {last:g}, which are before 1990 as seconds since 1970: they may '
            f"number rows or count days; {remedy}"
        )
    return None


def _whole_seconds(raw: pl.Series, real: pl.Series, unit: str) -> pl.Series:
    whole = real.floor().cast(pl.Int64, strict=False)
    if not raw.dtype.is_float():
        # Integers stay integers: a count of nanoseconds has more digits than a float holds.
        exact = raw.cast(pl.Int64, strict=False)
        whole = exact.zip_with(exact.is_not_null(), whole)
    return whole // TICKS[unit]


def _unit_of(real: pl.Series, name: str) -> str:
    size = real.filter(real.is_finite()).abs()
    if len(size) and size.is_between(19_700_101, 21_001_231).all() and _are_calendar_days(size):
        raise InputError(
            f'data.time = "{name}" holds {int(size[0])}, which looks like a date in digits; set data.time_format = '
            '"%Y%m%d", or data.time_unit = "s" if these are seconds since 1970'
        )
    middle = size.median()
    typical = float(middle) if isinstance(middle, int | float) else 0.0
    return next(unit for unit, limit in zip(TICKS, _LIMITS[1:], strict=True) if typical < limit)


def _are_calendar_days(numbers: pl.Series) -> bool:
    text = numbers.head(1000).cast(pl.Int64).cast(pl.String)
    return _strptime(text, "%Y%m%d").null_count() == 0


def _in_steps(text: pl.Series, clock: Clock) -> Times:
    steps = [_from_text(step.to_series(), clock) for step in text.to_frame().iter_slices(_CHUNK)]
    if not steps:
        return Times(pl.Series(text.name, [], pl.Int64))
    seconds, named = (pl.concat(parts) for parts in zip(*steps, strict=True))
    if clock.format is not None:
        return Times(seconds)
    return Times(seconds, warnings=_mixed_zones(text.filter(named.is_not_null()), named.drop_nulls(), clock))


def _mixed_zones(text: pl.Series, named: pl.Series, clock: Clock) -> tuple[str, ...]:
    """Return a warning where some of the times name a zone and some do not."""
    with_zone = int(named.sum())
    if with_zone in (0, len(named)):
        return ()
    return (
        f'"{text.name}" mixes times with and without a zone: {with_zone:,} have one, such as {text.filter(named)[0]}, '
        f"{len(named) - with_zone:,} have none, such as {text.filter(~named)[0]}, and were read as {clock.zone}; write "
        "all with a zone, or check data.timezone.",
    )


class _Parsed(NamedTuple):
    """Times that were text, and whether each names a zone; both null where a text is no time."""

    seconds: pl.Series
    named: pl.Series


def _from_text(text: pl.Series, clock: Clock) -> _Parsed:
    if clock.format is not None:
        seconds = _to_utc(_strptime(text, clock.format), clock.zone)
        return _Parsed(seconds, seconds.is_not_null())
    parts = text.str.extract_groups(_ISO).struct.unnest().select(pl.all().name.prefix("g"))
    made = parts.select(
        local=pl.concat_str("g1", pl.col("g2").fill_null("00:00"), pl.col("g3").fill_null(":00")).str.to_datetime(
            "%Y-%m-%d%H:%M:%S", strict=False
        ),
        offset=_offset(pl.col("g4")),
    )
    local, named = made["local"], made["offset"].is_not_null()
    zoned = local.dt.epoch("s") - made["offset"]
    seconds = zoned if named.all() else zoned.zip_with(named, _to_utc(local, clock.zone))
    return _Parsed(seconds.alias(text.name), named.set(local.is_null(), None))


def _offset(zone: pl.Expr) -> pl.Expr:
    """Return the seconds east of UTC of "Z", "+02", "+0200" and "+02:00"; null where there is no zone."""
    digits = zone.str.replace_all(r"\D", "").str.pad_end(4, "0")
    seconds = digits.str.slice(0, 2).cast(pl.Int64, strict=False) * 3600
    seconds += digits.str.slice(2, 2).cast(pl.Int64, strict=False) * 60
    return pl.when(zone.str.starts_with("-")).then(-seconds).otherwise(seconds)


def _strptime(text: pl.Series, form: str) -> pl.Series:
    # Polars writes Python's ".%f" as "%.f".
    return text.str.to_datetime(form.replace(".%f", "%.f"), strict=False)


def _to_utc(moment: pl.Series, zone: str) -> pl.Series:
    if getattr(moment.dtype, "time_zone", None) is None and zone != "UTC":
        local = _localise(moment, zone)
        # A time that the clocks skipped takes the offset in force before, as in Python's own datetime.
        day = timedelta(days=1)
        before = _localise(moment - day, zone).dt.epoch("s") + 86_400
        return local.dt.epoch("s").zip_with(local.is_not_null(), before)
    return moment.dt.epoch("s")


def _localise(moment: pl.Series, zone: str) -> pl.Series:
    return moment.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
