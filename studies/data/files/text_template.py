"""Templates of `data.text`: the columns that make an item's text, and how they are joined.

What stands between two columns is parted: brackets and quotes belong to the column that they enclose, words before a
comma or the like to the column before, words after it, and a label such as "size: ", to the column after. A column that
is empty leaves out what belongs to it. "{title} ({brand}), {size} ml" of a mug without a brand is "mug, 250 ml".
"""

from __future__ import annotations

import re
from string import Formatter
from typing import NamedTuple

import polars as pl

_CLOSING, _OPENING = re.compile(r"^[)\]}>\"”’»]*"), re.compile(r"[(\[{<\"“‘«„]*$")
# What parts words that belong to the column before from words that belong to the one after.
_SEPARATOR = re.compile(r"[,;|\n\t]\s*|\s[-–—/•·]\s+|^\.\s+")


def text_fields(text: str | list[str]) -> list[str]:
    """Return the columns that `data.text` names, each once.

    Args:
        text: A column, several columns, or a template such as "{title} by {brand}".

    Raises:
        ValueError: No column is named, or the template is broken or holds more than names.
    """
    if not text:
        raise ValueError('names no column; give one, a list of them, or a template such as "{title} by {brand}"')
    if isinstance(text, list):
        return text
    if "{" not in text:
        return [text]
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a template ({error}); write columns as {{title}}, a brace as {{{{"
        ) from error
    if any(name == "" or form or conversion for _, name, form, conversion in pieces if name is not None):
        raise ValueError(f"{text!r} holds more than names in braces; write {{title}}, without a format or conversion")
    if fields := [name for _, name, _, _ in pieces if name is not None]:
        return list(dict.fromkeys(fields))
    raise ValueError(f"{text!r} names no column; write columns as {{title}}")


def render_text(text: str | list[str]) -> pl.Expr:
    """Return the expression of a row's text: its fields joined by ", " or by the template; null where all are null.

    An empty field leaves out what belongs to it, and one of the separators beside it.
    """
    fields = {name: blank_to_null(pl.col(name).str.strip_chars(), [""]) for name in text_fields(text)}
    if isinstance(text, list) or "{" not in text:
        return blank_to_null(pl.concat_str(list(fields.values()), separator=", ", ignore_nulls=True), [""])
    pieces: list[pl.Expr] = []
    filled: list[pl.Expr] = []
    for slot in _slots(text):
        piece = pl.concat_str(pl.lit(slot.before), fields[slot.name], pl.lit(slot.after))
        if filled:
            separator = pl.when(filled[-1]).then(pl.lit(slot.separator)).otherwise(pl.lit(slot.beside_empty))
            piece = pl.concat_str(pl.when(pl.any_horizontal(filled)).then(separator).otherwise(pl.lit("")), piece)
        pieces.append(piece.fill_null(""))
        filled.append(fields[slot.name].is_not_null())
    return pl.when(pl.any_horizontal(filled)).then(pl.concat_str(pieces).str.strip_chars())


class _Slot(NamedTuple):
    """A column of a template with what belongs to it.

    Attributes:
        name: The column.
        separator: Between the column before and this one.
        beside_empty: The same where the column before is empty and an earlier one is not.
        before: What belongs to the column and stands before it.
        after: What belongs to it and stands after it.
    """

    name: str
    separator: str
    beside_empty: str
    before: str
    after: str = ""


class _Between(NamedTuple):
    after: str
    separator: str
    beside_empty: str
    before: str


def _slots(template: str) -> list[_Slot]:
    slots: list[_Slot] = []
    literal = ""
    for text, name, _, _ in Formatter().parse(template):
        literal += text
        if name is None:  # after a brace that is a letter, and at the end
            continue
        # Nothing parts what stands before the first column.
        parts = _part(literal) if slots else _Between("", "", "", literal)
        if slots:
            slots[-1] = slots[-1]._replace(after=parts.after)
        slots.append(_Slot(name, *parts[1:]))
        literal = ""
    return [*slots[:-1], slots[-1]._replace(after=literal)]


def _part(literal: str) -> _Between:
    """Part what stands between two columns; its parts in a row are the whole."""
    closing, opening = _CLOSING.findall(literal)[0], ""
    rest = literal[len(closing) :]
    opening = _OPENING.findall(rest)[0]
    middle = rest[: len(rest) - len(opening)]
    start, words, end = middle[: len(middle) - len(middle.lstrip())], middle.strip(), middle[len(middle.rstrip()) :]
    if not re.search(r"\w", words):
        return _Between(closing, middle, middle or " ", opening)
    if found := _SEPARATOR.search(middle):
        return _Between(closing + middle[: found.start()], found[0], found[0], middle[found.end() :] + opening)
    if closing or words.endswith(":"):
        return _Between(closing, start, start or " ", words + end + opening)
    if opening:
        return _Between(closing + start + words, end, end or " ", opening)
    return _Between(closing, middle, " ", opening)


def blank_to_null(text: pl.Expr, blanks: list[str]) -> pl.Expr:
    """Return the expression of a text that is null where it is one of `blanks`."""
    return pl.when(~text.is_in(blanks)).then(text)
