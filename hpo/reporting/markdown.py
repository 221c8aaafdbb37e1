"""The report as Markdown: the same words and tables without the figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hpo.reporting.blocks import Block, Cell, Commands, Items, Report, Table, Terms, Text

# What could start a construct within a line; a closing bracket only where it could end the text of a link.
SPECIAL = re.compile(r"([\\`*_<>|~#&$]|\](?=[(\[:]))")


def render(report: Report) -> str:
    """The report, ending in a newline."""
    blocks = [f"# {escape(report.title)}", escape(report.written)]
    blocks += [f"**{escape(verdict)}**" for verdict in report.verdicts]
    blocks.append(escape(report.measured))
    for section in report.sections:
        contents = [text for block in section.blocks for text in _block(block)]
        if contents:  # a section may be a figure alone
            blocks += [f"## {escape(section.title)}", *contents]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield escape(block.text)
    elif isinstance(block, Terms):
        yield "\n".join(f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in block.pairs)
    elif isinstance(block, Items):
        yield "\n".join(f"- {escape(sentence)}" for sentence in block.sentences)
    elif isinstance(block, Commands):
        yield "\n".join(["```sh", *(" ".join(line.split()) for line in block.lines), "```"])
    elif isinstance(block, Table):
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
    text = escape(f"{cell.text} {cell.interval}".strip())
    return f"**{text}**" if cell.strong else text
