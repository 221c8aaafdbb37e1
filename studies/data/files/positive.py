"""Which rows of the log count: `data.positive`."""

from __future__ import annotations

from functools import partial

import polars as pl

from storage.errors import InputError
from studies.data.files.ids import without_zero_fraction
from studies.data.files.keys import Positive
from studies.data.files.tables import Table
from studies.data.files.times import BLANKS
from studies.data.files.written_numbers import SIGNS, DecimalSign, find_sign, read_numbers


def is_positive(positive: Positive, *signs: DecimalSign) -> pl.Expr:
    """Return the expression of whether a row counts, with any of the decimal signs."""
    return pl.any_horizontal(_counts(positive, sign) for sign in signs)


def is_unreadable(positive: Positive) -> pl.Expr:
    """Return the expression of whether a row's value is not a number where numbers are compared."""
    if positive.values is not None:
        return pl.lit(False)
    return (_number(positive, ".").is_null() & ~_text(positive.column).is_in(BLANKS)).fill_null(False)


def reason(positive: Positive) -> str:
    """Return why a row does not count."""
    if positive.values is None:
        return f"{positive.column} missing or below {positive.at_least:g}"
    return f"{positive.column} not among {', '.join(map(str, positive.values))}"


def open_signs(positive: Positive, log: Table, decimal: DecimalSign | None) -> tuple[DecimalSign, ...]:
    """Return the decimal signs that the column may have, before its values are known.

    Args:
        positive: What counts.
        log: The log.
        decimal: The sign that the study file gives; None to find it out.
    """
    if not log.holds_text(positive.column) or not (positive.values is None or _numbers_of(positive)):
        return (".",)
    return SIGNS if decimal is None else (decimal,)


def choose_sign(positive: Positive, rows: pl.DataFrame, log: Table) -> tuple[DecimalSign, str | None]:
    """Return the decimal sign of the column, and a warning where its values do not tell it.

    Args:
        positive: What counts.
        rows: The rows that count with either sign.
        log: The log.
    """
    open_rows = rows.filter(is_positive(positive, ".") != is_positive(positive, ","))
    if open_rows.is_empty():
        return ".", None
    found = find_sign(log.read([positive.column]).frame[positive.column])
    if found.told:
        return found.sign, None
    value = open_rows[positive.column].head(1)
    other = next(sign for sign in SIGNS if sign != found.sign)
    said = f'Values of "{positive.column}" such as {value[0]} were read as {read_numbers(value, found.sign)[0]:g}'
    return found.sign, f'{said}, and nothing in the column tells; data.decimal = "{other}" reads them the other way.'


def check_values(positive: Positive, kept: pl.Series, log: Table, sign: DecimalSign) -> None:
    """Check that every value occurs in the log, or that a row reaches the bound.

    Args:
        positive: What counts.
        kept: The column in the rows that count.
        log: The log.
        sign: The decimal sign of the column.

    Raises:
        InputError: No row has a value, or none reaches the bound; the message names the most frequent values.
    """
    found = kept.unique().to_frame(positive.column)
    single = {str(value): positive.model_copy(update={"values": [value]}) for value in positive.values or []}
    unknown = [value for value, one in single.items() if found.filter(is_positive(one, sign)).is_empty()]
    if len(found) and not unknown:
        return
    column = log.read([positive.column]).frame[positive.column]
    common = column.value_counts(sort=True)[positive.column].head(5)
    said = f"no row of {log.name} has {positive.column} = {unknown[0]!r}" if unknown else reason(positive)
    raise InputError(
        f"data.positive: {said}{'' if unknown else f' in every row of {log.name}'}; the most frequent values "
        f"are {', '.join(repr(value)[:60] for value in common)}: correct data.positive"
    )


def _counts(positive: Positive, sign: DecimalSign) -> pl.Expr:
    if positive.values is None:
        return (_number(positive, sign) >= positive.at_least).fill_null(False)
    forms = {form for value in positive.values for form in _spellings(value)}
    same = _text(positive.column).is_in(sorted(forms)).fill_null(False)
    numbers = _numbers_of(positive)
    return same | _number(positive, sign).is_in(numbers).fill_null(False) if numbers else same


def _numbers_of(positive: Positive) -> list[float]:
    numbers = [value for value in positive.values or [] if not isinstance(value, str | bool)]
    return [float(value) for value in numbers]


def _text(column: str) -> pl.Expr:
    """Return the expression of a column's text; 1 is "1" in one file and "1.0" in another."""
    return without_zero_fraction(pl.col(column).str.strip_chars())


def _number(positive: Positive, sign: DecimalSign) -> pl.Expr:
    read = partial(read_numbers, sign=sign)
    return pl.col(positive.column).map_batches(read, return_dtype=pl.Float64, is_elementwise=True)


def _spellings(value: str | bool | int | float) -> list[str]:
    """Return how a value may be written: true is "true" or "True"."""
    if isinstance(value, bool):
        return [str(value), str(value).lower()]
    written = pl.DataFrame({"value": [value if isinstance(value, str) else f"{value:f}"]})
    return [str(value), written.select(_text("value")).item()]
