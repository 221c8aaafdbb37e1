"""`hpo recommend`: rank a catalogue for users with an exported student, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName
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
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported student.", show_default=False)],
    catalogue: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The items to rank: CSV, TSV or parquet with a column of texts and, optionally, a column of products "
            "(how many share the text); or .txt with one text per line. Equal texts are one item.",
            show_default=False,
        ),
    ],
    support: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The scene's first interactions as JSON lines, oldest first: the item taken, and the user's history "
            "before it (texts, oldest first).",
            show_default=False,
        ),
    ],
    histories: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The users to rank for as JSON lines: user and history.", show_default=False),
    ],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the catalogue that holds the texts.")] = "text",
    k: Annotated[int, typer.Option("--k", min=1, metavar="N", help="Number of items per user.")] = 10,
    backend: Annotated[BackendName, typer.Option(help="Runtime of the encoder.")] = BackendName.torch,
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
