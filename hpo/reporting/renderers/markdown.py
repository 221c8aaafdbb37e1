"""Blocks as Markdown: the report without its drawings, and the dashboard's note."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpo.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Code,
    Commands,
    Items,
    Link,
    Report,
    Section,
    Table,
    Terms,
    Text,
    Words,
)
from studies.escaping import markdown_code, markdown_text, visible


def render(report: Report) -> str:
    """Return the report, ending in a newline."""
    blocks = [f"# {escape(report.title)}", escape(report.written)]
    blocks += [f"**{escape(verdict)}**" for verdict in report.verdicts]
    blocks.append(escape(report.measured))
    return "\n\n".join(blocks + render_sections(report.sections)) + "\n"


def render_sections(sections: Sequence[Section], level: int = 2) -> list[str]:
    """Return the parts of sections that belong on paragraphs of their own.

    Args:
        sections: One without anything but drawings is left out.
        level: Of their headings.
    """
    parts = []
    for section in sections:
        if contents := [text for block in section.blocks for text in _block(block)]:
            parts += [f"{'#' * level} {_words(section.title)}", *contents]
    return parts


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return markdown_text(text.strip())


def _words(words: Words) -> str:
    if isinstance(words, str):
        return escape(words)
    return "".join(_inline(part) for part in words)


def _inline(part: str | Link | Code) -> str:
    if isinstance(part, Link):
        return f"[{escape(part.text)}]({part.address})"
    if isinstance(part, Code):
        return markdown_code(part.text)
    return markdown_text(part)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield _words(block.text)
    elif isinstance(block, Terms):
        yield "\n".join(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in block.pairs)
    elif isinstance(block, Items):
        yield "\n".join(f"- {_words(sentence)}" for sentence in block.sentences)
    elif isinstance(block, Commands):
        yield "\n".join(["```sh", *(visible(" ".join(line.split())) for line in block.lines), "```"])
    elif isinstance(block, Table):
        if block.caption:
            yield f"{escape(block.caption)}:"
        yield _table(block)


def _table(table: Table) -> str:
    lines = [_row([escape(column) for column in table.columns])]
    lines.append(_row(["---" if words else "---:" for words in table.words]))
    lines += [_row([_cell(cell) for cell in row]) for row in table.rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    text = escape(f"{NOTHING if cell.text is None else cell.text} {cell.interval}".strip())
    return f"**{text}**" if cell.strong else text
