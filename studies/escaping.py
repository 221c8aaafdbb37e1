"""Shows users' data as text and nothing else, whatever they hold: on terminals, in JSON and in Markdown.

A study's name, an item's text or a scene may come from a stranger's file, with sequences that a terminal obeys or that
end a construct of Markdown.
"""

from __future__ import annotations

import re

# All but tab and newline; also what changes the direction of the text around it, and halves of surrogate pairs.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What could start a construct of Markdown within a line: a # unless a digit follows, a closing bracket only where it
# could end the text of a link.
_SPECIAL = re.compile(r"([\\`*_<>|~&$]|#(?![0-9])|\](?=[(\[:]))")


def visible(text: str) -> str:
    r"""Return text with control characters as escapes, such as \u001b, which JSON reads as the character."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is, on one line; spaces at its ends stay."""
    return _SPECIAL.sub(r"\\\1", visible(re.sub(r"\s+", " ", text)))


def markdown_code(text: str) -> str:
    """Return a code span of Markdown, on one line, that the text cannot end."""
    text = visible(re.sub(r"\s", " ", text))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    # Markdown takes one space off both ends.
    space = " " if text != text.strip("` ") else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""
