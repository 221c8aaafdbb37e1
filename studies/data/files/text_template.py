"""Templates of `data.text`: the columns that make an item's text, and how they are joined."""

from __future__ import annotations

from string import Formatter

import polars as pl


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
    """Return the expression of a row's text: its fields joined by ", " or by the template; null where all are null."""
    fields = {name: blank_to_null(pl.col(name).str.strip_chars(), [""]) for name in text_fields(text)}
    if isinstance(text, list) or "{" not in text:
        return blank_to_null(pl.concat_str(list(fields.values()), separator=", ", ignore_nulls=True), [""])
    pieces: list[pl.Expr] = []
    for literal, name, _, _ in Formatter().parse(text):
        pieces += [pl.lit(literal)] if literal else []
        pieces += [fields[name].fill_null("")] if name is not None else []
    has_value = pl.any_horizontal(field.is_not_null() for field in fields.values())
    return pl.when(has_value).then(pl.concat_str(pieces).str.strip_chars())


def blank_to_null(text: pl.Expr, blanks: list[str]) -> pl.Expr:
    """Return the expression of a text that is null where it is one of `blanks`."""
    return pl.when(~text.is_in(blanks)).then(text)
