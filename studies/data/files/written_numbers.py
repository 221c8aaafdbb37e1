"""Reads numbers as people and spreadsheets write them: 16.11 and 16,11, 1.541,92 and 1,541.92, 1 541,92 and 1'541.92.

Most numbers tell what their signs mean: the last sign is the decimal one unless it stands before every three digits.
Of one like 1,541 only the other values of its column can tell.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

DecimalSign = Literal[".", ","]
SIGNS: tuple[DecimalSign, DecimalSign] = (".", ",")

# Between thousands: the spaces and apostrophes that spreadsheets write, of several widths and shapes.
_BLANK = " '’\u00a0\u2009\u202f"
_UNUSUAL = rf"[,{_BLANK}]|\..*\."
# Ten thousands and more as India groups them: 1,00,000.
_LAKHS = r"|[1-9]\d?(?:,\d\d)+,\d{3}"
_NO_GROUPS = r"^[+-]?\d{4,}$"


def _pattern(sign: DecimalSign) -> str:
    """Return the pattern of a number whose decimal sign is `sign`, with or without signs between thousands."""
    other, lakhs = (",", _LAKHS) if sign == "." else (r"\.", "")
    whole = rf"[1-9]\d{{0,2}}(?:(?:{other}\d{{3}})+|(?:[{_BLANK}]\d{{3}})+){lakhs}|\d+"
    return rf"^[+-]?(?:{whole})?(?:[{sign}]\d*)?(?:[eE][+-]?\d+)?$"


_PATTERNS = {sign: _pattern(sign) for sign in SIGNS}


class FoundSign(NamedTuple):
    """The decimal sign of a column, and whether its values tell it."""

    sign: DecimalSign
    told: bool


def plain_numbers(text: pl.Series, sign: DecimalSign = ".") -> pl.Series:
    """Return a column of text with its numbers as programs write them (1541.92); other text stays.

    Args:
        text: The column.
        sign: The decimal sign of numbers that do not tell it, such as 1,541.
    """
    stripped = text.str.strip_chars()
    odd = stripped.filter(stripped.str.contains(_UNUSUAL if sign == "." else rf"[.,{_BLANK}]")).unique()
    if len(odd) == 0:
        return stripped
    first, second = (sign, *(other for other in SIGNS if other != sign))
    value = pl.col("odd")
    plain = (
        pl.when(value.str.contains(_PATTERNS[first]))
        .then(_undone(value, first))
        .when(value.str.contains(_PATTERNS[second]))
        .then(_undone(value, second))
        .otherwise(value)
    )
    return stripped.replace(odd, odd.to_frame("odd").select(plain)["odd"])


def _undone(value: pl.Expr, sign: DecimalSign) -> pl.Expr:
    between = "," if sign == "." else "."
    return value.str.replace_all(rf"[{between}{_BLANK}]", "").str.replace(sign, ".", literal=True)


def read_numbers(text: pl.Series, sign: DecimalSign = ".") -> pl.Series:
    """Return a column of text as numbers; null where it holds none.

    Args:
        text: The column.
        sign: The decimal sign of numbers that do not tell it, such as 1,541.
    """
    return plain_numbers(text, sign).cast(pl.Float64, strict=False).fill_nan(None)


def find_sign(text: pl.Series) -> FoundSign:
    """Return the decimal sign of a column of text, going by its numbers that can be read in one way only.

    Where there are none, numbers of four digits without a sign say that thousands are not grouped. Where there are none
    of these either, a comma is taken to stand between thousands, and a point to be the decimal sign.
    """
    values = text.drop_nulls().str.strip_chars().unique()
    point, comma = (values.str.contains(_PATTERNS[sign]) for sign in SIGNS)
    points, commas = int((point & ~comma).sum()), int((comma & ~point).sum())
    if points or commas:
        return FoundSign("," if commas > points else ".", told=min(points, commas) == 0)
    open_values = values.filter(point & comma & values.str.contains("[.,]"))
    with_comma = int(open_values.str.contains(",", literal=True).sum())
    if values.str.contains(_NO_GROUPS).any() and with_comma in (0, len(open_values)):
        return FoundSign("," if with_comma else ".", told=True)
    return FoundSign(".", told=False)
