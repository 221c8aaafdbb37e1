"""Which rows of the log count: `data.positive`."""

from __future__ import annotations

import polars as pl

from storage.errors import InputError
from studies.data.files.ids import without_zero_fraction
from studies.data.files.keys import Positive
from studies.data.files.tables import Table
from studies.data.files.times import BLANKS


def is_positive(positive: Positive) -> pl.Expr:
    """Return the expression of whether a row counts."""
    if positive.values is None:
        return (_number(positive) >= positive.at_least).fill_null(False)
    forms = {form for value in positive.values for form in _spellings(value)}
    return _text(positive.column).is_in(sorted(forms)).fill_null(False)


def is_unreadable(positive: Positive) -> pl.Expr:
    """Return the expression of whether a row's value is not a number where numbers are compared."""
    if positive.values is not None:
        return pl.lit(False)
    return (_number(positive).is_null() & ~_text(positive.column).is_in(BLANKS)).fill_null(False)


def reason(positive: Positive) -> str:
    """Return why a row does not count."""
    if positive.values is None:
        return f"{positive.column} missing or below {positive.at_least:g}"
    return f"{positive.column} not among {', '.join(map(str, positive.values))}"


def check_values(positive: Positive, kept: pl.Series, log: Table) -> None:
    """Check that every value occurs in the log, or that a row reaches the bound.

    Args:
        positive: What counts.
        kept: The column in the rows that count.
        log: The log.

    Raises:
        InputError: No row has a value, or none reaches the bound; the message names the most frequent values.
    """
    found = set(kept.unique().to_frame("value").select(_text("value"))["value"])
    unknown = [str(value) for value in positive.values or [] if not found & set(_spellings(value))]
    if found and not unknown:
        return
    column = log.read([positive.column]).frame[positive.column]
    common = column.value_counts(sort=True)[positive.column].head(5)
    said = f"no row of {log.name} has {positive.column} = {unknown[0]!r}" if unknown else reason(positive)
    raise InputError(
        f"data.positive: {said}{'' if unknown else f' in every row of {log.name}'}; the most frequent values "
        f"are {', '.join(repr(value)[:60] for value in common)}: correct data.positive"
    )


def _text(column: str) -> pl.Expr:
    """Return the expression of a column's text; 1 is "1" in one file and "1.0" in another."""
    return without_zero_fraction(pl.col(column).str.strip_chars())


def _number(positive: Positive) -> pl.Expr:
    return _text(positive.column).cast(pl.Float64, strict=False).fill_nan(None)


def _spellings(value: str | bool | int | float) -> list[str]:
    """Return how a value may be written: true is "true" or "True"."""
    if isinstance(value, bool):
        return [str(value), str(value).lower()]
    written = pl.DataFrame({"value": [value if isinstance(value, str) else f"{value:f}"]})
    return [str(value), written.select(_text("value")).item()]
