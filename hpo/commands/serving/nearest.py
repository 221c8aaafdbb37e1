"""`hpo similar`, `hpo find`, `hpo profile`: nearest items of items, queries and users, by an exported student."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName
from hpo.commands.serving.options import SUPPORT, Backend, CatalogueFile, Export, Histories, Text
from hpo.commands.verb import verb
from hpo.serving import nearest
from hpo.serving.nearest import Nearest, print_nearest
from hpo.status.console import Console
from studies.escaping import visible

app = typer.Typer()

_MORE = "CSV, TSV or parquet with a column of texts, or .txt with one text per line."
Count = Annotated[int, typer.Option("--k", min=1, metavar="N", help="Number of nearest items.")]
Scene = Annotated[
    Path | None,
    typer.Option("--support", metavar="FILE", help=f"Adapt to a scene first. {SUPPORT}", show_default=False),
]


@app.command()
@verb('hpo similar exports/quickstart "whole milk, 1 l" --catalogue items.csv')
def similar(
    folder: Export,
    catalogue: CatalogueFile,
    items: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="Texts of the catalogue.", show_default=False)
    ] = None,
    items_file: Annotated[
        Path | None, typer.Option("--items", metavar="FILE", help=f"Items from a file: {_MORE}", show_default=False)
    ] = None,
    support: Scene = None,
    text: Text = "text",
    k: Count = 10,
    backend: Backend = BackendName.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: item, nearest.")] = False,
) -> None:
    """Find the other items of a catalogue that are nearest to each item, by an exported student's vectors."""
    console = Console()
    with console.progress("embedding the catalogue") as report:
        found = nearest.similar(
            folder,
            catalogue,
            items or [],
            items_file=items_file,
            support=support,
            text=text,
            k=k,
            backend=backend.value,
            progress=report,
            note=lambda remark: console.note(f"note: {remark}"),
        )
    _print(found, console, as_json=as_json)


@app.command()
@verb('hpo find exports/quickstart "oat milk" --catalogue items.csv')
def find(
    folder: Export,
    catalogue: CatalogueFile,
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="[QUERY]...", help="What to search for.", show_default=False)
    ] = None,
    queries_file: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help=f"Queries from a file: {_MORE}", show_default=False)
    ] = None,
    text: Text = "text",
    k: Count = 10,
    backend: Backend = BackendName.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: query, nearest.")] = False,
) -> None:
    """Search a catalogue for any words: the items that are nearest to them, by an exported student's vectors."""
    console = Console()
    with console.progress("embedding the catalogue") as report:
        found = nearest.find(
            folder,
            catalogue,
            queries or [],
            queries_file=queries_file,
            text=text,
            k=k,
            backend=backend.value,
            progress=report,
            note=lambda remark: console.note(f"note: {remark}"),
        )
    _print(found, console, as_json=as_json)


@app.command()
@verb(
    "hpo profile exports/quickstart --catalogue items.csv --histories users.jsonl\n\n\b\n"
    'A line of users.jsonl: {"user": "u17", "history": ["granola, 400 g"]}'
)
def profile(
    folder: Export,
    catalogue: CatalogueFile,
    histories: Histories,
    support: Scene = None,
    text: Text = "text",
    k: Count = 10,
    backend: Backend = BackendName.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: user, vector, nearest.")] = False,
) -> None:
    """Show what an exported student makes of users' histories: a vector for each, and the items nearest to it."""
    console = Console()
    with console.progress("embedding the catalogue") as report:
        found = nearest.profile(
            folder,
            catalogue,
            histories,
            support=support,
            text=text,
            k=k,
            backend=backend.value,
            progress=report,
        )
    _print(found, console, as_json=as_json)


def _print(found: Sequence[Nearest], console: Console, *, as_json: bool) -> None:
    if not as_json:
        print_nearest(found, console)
        return
    for entry in found:
        typer.echo(visible(json.dumps(entry.to_json(), ensure_ascii=False)))
