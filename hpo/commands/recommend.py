"""`hpo recommend`: lists for users from an exported student, out of files."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.verb import verb
from hpo.recommend import print_lists
from hpo.recommend import recommend as run
from hpo.status.console import Console

app = typer.Typer()


class BackendName(StrEnum):
    """The backends of `distill.serving.backends`, as the command line names them."""

    torch = "torch"
    onnx = "onnx"
    int8 = "onnx-int8"


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
            help="What to rank: CSV, TSV or parquet with a column of texts and, if known, of products (how many each "
            "text stands for); or .txt, one text a line. Equal texts are one item.",
            show_default=False,
        ),
    ],
    support: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The scene's first interactions, oldest first, as JSON lines: a user's history before it (texts, "
            "oldest first) and the item that was taken.",
            show_default=False,
        ),
    ],
    histories: Annotated[
        Path, typer.Option(metavar="FILE", help="Who asks, as JSON lines: user and history.", show_default=False)
    ],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The catalogue's column of texts.")] = "text",
    k: Annotated[int, typer.Option("--k", min=1, metavar="N", help="Length of each list.")] = 10,
    backend: Annotated[BackendName, typer.Option(help="What runs the encoder.")] = BackendName.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: user, items, scores.")] = False,
) -> None:
    """Adapt an exported student to a scene, and rank a catalogue for users."""
    console = Console()
    with console.progress("embedding the catalogue") as report:
        lists = run(folder, catalogue, support, histories, text=text, k=k, backend=backend.value, progress=report)
    if as_json:
        for entry in lists:
            typer.echo(json.dumps(asdict(entry), ensure_ascii=False))
    else:
        print_lists(lists, console)
