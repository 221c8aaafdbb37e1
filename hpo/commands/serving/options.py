"""Flags and inputs that several verbs of serving share: an export, a catalogue, a scene's support, users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName

Export = Annotated[Path, typer.Argument(metavar="DIR", help="An exported student.", show_default=False)]
CatalogueFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="The items: CSV, TSV or parquet with a column of texts and, optionally, a column of products (how many "
        "share the text); or .txt with one text per line. Equal texts are one item.",
        show_default=False,
    ),
]
SUPPORT = (
    "The scene's first interactions as JSON lines, oldest first: the item taken, and the user's history before it "
    "(texts, oldest first)."
)
Support = Annotated[Path, typer.Option(metavar="FILE", help=SUPPORT, show_default=False)]
Histories = Annotated[
    Path, typer.Option(metavar="FILE", help="The users as JSON lines: user and history.", show_default=False)
]
Text = Annotated[str, typer.Option(metavar="COLUMN", help="Column of texts.")]
Backend = Annotated[BackendName, typer.Option(help="Runtime of the encoder.")]
