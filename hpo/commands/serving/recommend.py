"""`hpo recommend`: rank a catalogue for users with an exported student, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName
from hpo.commands.serving.options import Backend, CatalogueFile, Export, Histories, Support, Text
from hpo.commands.verb import verb
from hpo.serving.recommend import print_lists
from hpo.serving.recommend import recommend as run
from hpo.status.console import Console
from studies.escaping import visible

app = typer.Typer()


@app.command()
@verb(
    "hpo recommend exports/quickstart --catalogue items.csv --support first.jsonl --histories users.jsonl\n\n\b\n"
    'A line of first.jsonl: {"history": ["corn flakes, 500 g"], "item": "whole milk, 1 l"}\n\n\b\n'
    'A line of users.jsonl: {"user": "u17", "history": ["granola, 400 g"]}'
)
def recommend(
    folder: Export,
    catalogue: CatalogueFile,
    support: Support,
    histories: Histories,
    text: Text = "text",
    k: Annotated[int, typer.Option("--k", min=1, metavar="N", help="Number of items per user.")] = 10,
    backend: Backend = BackendName.torch,
    taken: Annotated[
        Path | None,
        typer.Option(
            "--popularity",
            metavar="FILE",
            help="What was taken in other scenes lately, for a student of scenes that share items: CSV, TSV or parquet "
            "with one interaction per row, the column of texts and a column time. As of the export if left out.",
            show_default=False,
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why each item has its score: the terms that add up to it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: user, items, scores.")] = False,
) -> None:
    """Adapt an exported student to a scene and rank a catalogue for users."""
    console = Console()
    with console.progress("embedding the catalogue") as report:
        lists = run(
            folder,
            catalogue,
            support,
            histories,
            text=text,
            k=k,
            backend=backend.value,
            taken=taken,
            explain=explain,
            progress=report,
        )
    if as_json:
        for entry in lists:
            typer.echo(visible(json.dumps(entry.to_json(), ensure_ascii=False)))
    else:
        print_lists(lists, console)
