"""Brings the ids of the log and of another table into one spelling: 17, 17.0 and 00000017 may be the same product.

What a spelling means is decided over all values of both tables. Spellings that a program certainly made are always
undone: the ".0" or ",0" of whole numbers, words for a missing value, Unicode's forms. Leading zeros, letter case, signs
between thousands and ".0" beside real fractions may be part of an id: they are undone only where more ids are then
found in the other table and each table's ids stay apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import polars as pl

from studies.data.files.times import BLANKS
from studies.data.text_columns import normalise_column

# Words for a missing value that are also names, such as Namibia's NA: they mean it only where all others are numbers.
_BLANKS_AMONG_NUMBERS = ("na", "n/a", "#n/a", "#na", "-", "--", "?", "-nan", "nil", "missing", "undefined", "unknown")

_NUMBER = r"^[+-]?\d+([.,]\d*)?$|^\d(\.\d+)?[eE]\+\d+$"
_FRACTION = r"^[+-]?\d+[.,]\d*[1-9]\d*$"
# As Python and C write a float of many digits. An id such as "12e4" has no sign and stays.
_EXPONENT = r"^\d(\.\d+)?[eE]\+\d+$"


@dataclass(frozen=True)
class _Form:
    """A spelling that may be part of an id: what is left out of it, in words, and how."""

    name: str
    undo: Callable[[pl.Expr], pl.Expr]


def without_zero_fraction(text: pl.Expr) -> pl.Expr:
    """Return the expression of a text without the ".0" or ",0" of a whole number."""
    return text.str.replace(r"^([+-]?\d+)(?:\.0*|,0)$", "${1}")


def _without_grouping(text: pl.Expr) -> pl.Expr:
    grouped = text.str.contains(r"^[1-9]\d{0,2}(?:\.\d{3}|,\d{3}|[ '’\x{a0}\x{202f}]\d{3})+$")
    return pl.when(grouped).then(text.str.replace_all(r"\D", "")).otherwise(text)


_OPTIONAL = (
    _Form("signs between thousands", _without_grouping),
    _Form('".0"', without_zero_fraction),
    _Form("leading zeros", lambda text: text.str.replace(r"^0+([0-9])", "${1}")),
    _Form("letter case", lambda text: text.str.to_lowercase()),
)
TRIED = ", ".join(form.name for form in _OPTIONAL)


@dataclass(frozen=True)
class SameIds:
    """The ids of two tables in one spelling.

    Attributes:
        log: Of the log, row by row; null where there is none.
        table: Of the other table; None where there is none.
        count: Number of distinct ids of the log.
        unknown: The distinct ids of the log that the other table lacks, ascending; none where there is no other.
        ignored: Names of the optional spellings that were undone.
    """

    log: pl.Series
    table: pl.Series | None
    count: int
    unknown: pl.Series
    ignored: tuple[str, ...] = ()


def spell_alike(log: pl.Series, table: pl.Series | None = None) -> SameIds:
    """Return the ids of one column in one spelling, over all tables that have it.

    Args:
        log: Ids as the log spells them, as text.
        table: As the catalogue, or the table of users, spells them.
    """
    columns = [log] if table is None else [log, table]
    written = [column.drop_nulls().unique() for column in columns]
    ids = pl.DataFrame({"old": pl.concat(written).unique()})
    ids = ids.with_columns(_plain(normalise_column(ids["old"])).alias("id"))
    ids = ids.with_columns(
        pl.col("old").is_in(values.implode()).alias(f"in {place}") for place, values in enumerate(written)
    )
    ignored: list[str] = []
    for form in _OPTIONAL if table is not None else ():
        tried = ids.with_columns(form.undo(pl.col("id")))
        if _matches(tried) > _matches(ids) and _apart(tried, ids):
            ids, ignored = tried, [*ignored, form.name]
    changed = ids.filter(pl.col("old").ne_missing(pl.col("id")))
    spelled = [column.replace(changed["old"], changed["id"]) if len(changed) else column for column in columns]
    found = ids.filter("in 0")["id"].drop_nulls().unique()
    if table is None:
        return SameIds(spelled[0], None, len(found), found.clear())
    known = ids.filter("in 1")["id"].drop_nulls()
    unknown = found.filter(~found.is_in(known.implode())).sort()
    return SameIds(spelled[0], spelled[1], len(found), unknown, tuple(ignored))


def _plain(text: pl.Series) -> pl.Series:
    """Return distinct ids without what some program has certainly added; null for a missing value."""
    text = text.set(text.is_in(BLANKS), None)
    odd = ~text.str.contains(_NUMBER).fill_null(True)
    if (odd & ~text.str.to_lowercase().is_in(_BLANKS_AMONG_NUMBERS)).any():
        numbers = False
    else:
        numbers = odd.sum() < text.count()
        text = text.set(odd, None) if numbers else text
    if text.str.contains(_FRACTION).any():
        return text
    if numbers and text.str.contains(_EXPONENT).any():
        long = text.filter(text.str.contains(_EXPONENT).fill_null(False))
        text = text.replace(long, [f"{Decimal(value):f}" for value in long])
    return text.to_frame("id").select(without_zero_fraction(pl.col("id")))["id"]


def _matches(ids: pl.DataFrame) -> int:
    """Return how many ids of the log, as written, the other table has."""
    known = ids.filter("in 1")["id"].drop_nulls()
    return int(ids.filter("in 0")["id"].is_in(known.implode()).sum())


def _apart(tried: pl.DataFrame, ids: pl.DataFrame) -> bool:
    """Return whether each table has as many distinct ids as before."""
    return all(tried.filter(place)["id"].n_unique() == ids.filter(place)["id"].n_unique() for place in ("in 0", "in 1"))
