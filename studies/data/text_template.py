"""Templates of `data.text`: which columns an item's text is made of."""

from __future__ import annotations

from string import Formatter


def text_fields(text: str | list[str]) -> list[str]:
    """The columns that `data.text` names.

    Raises:
        ValueError: no column is named, or a template is broken or holds more than names.
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
