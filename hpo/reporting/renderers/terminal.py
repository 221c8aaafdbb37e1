"""Blocks on stdout: tables and lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable

from hpo.reporting.blocks import Cell, Code, Link, Table, Text, Words
from hpo.status.console import Console, plain


def print_blocks(blocks: Sequence[Text | Table], console: Console) -> None:
    """Print blocks on stdout, with an empty line after each table that something follows."""
    for number, block in enumerate(blocks):
        if number and isinstance(blocks[number - 1], Table):
            console.out.print()
        if isinstance(block, Table):
            console.out.print(_table(block))
        else:
            console.out.print(_plain(block.text), markup=False, soft_wrap=True)


def _table(table: Table) -> RichTable:
    """Return a table without lines; what is not defined is left empty."""
    rich = RichTable(
        title=plain(table.caption) if table.caption else None,
        title_justify="left",
        box=None,
        padding=(0, 1),
        show_header=any(table.columns),
    )
    for number, heading in enumerate(table.columns):
        cells = [row[number] for row in table.rows]
        figures = all(isinstance(cell, Cell) or cell.isdecimal() for cell in cells)
        rich.add_column(plain(heading), justify="right" if figures else "left", no_wrap=number == 0)
    for row in table.rows:
        rich.add_row(*(plain(_cell(cell)) for cell in row))
    return rich


def _cell(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell.text or ''} {cell.interval}".strip()


def _plain(words: Words) -> str:
    if isinstance(words, str):
        return words
    return "".join(part.text if isinstance(part, Link | Code) else part for part in words)
