"""docs/troubleshooting.md quotes messages: each of them must still be one that the code can say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(.+?)` .*\|$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
)


def strings(source: str) -> Iterator[str]:
    """Every string of a file, adjacent ones joined, with `…` for what f-strings fill in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SAID = [
    text
    for package in ("hpo", "distill", "studies", "storage")
    for path in (ROOT / package).rglob("*.py")
    for text in strings(path.read_text(encoding="utf-8"))
]


def test_every_quoted_message_is_still_said() -> None:
    """Who looks up an error by its words must find the words that they were shown."""
    assert [quoted for quoted in ROWS if not any(quoted in text for text in SAID)] == []


def test_a_message_that_nobody_says_is_noticed() -> None:
    """A check that takes anything is no check."""
    assert len(ROWS) > 50
    assert next(strings('raise InputError(f"{x} has " f"no {y!r}: " "why")')) == "… has no …: why"
    assert not any("this message was never written" in text for text in SAID)
