"""`hpo classify`: label texts with an exported student that adapts to a few labelled ones, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName
from hpo.commands.verb import verb
from hpo.serving.classify import check_out, print_table, summary, write_csv
from hpo.serving.classify import classify as run
from hpo.status.console import Console
from storage.errors import InputError
from studies.escaping import visible

app = typer.Typer()


@app.command()
@verb(
    "hpo classify exports/products --support labelled.csv --texts new.csv --out sorted.csv\n\n\b\n"
    'Rows of labelled.csv: text,label / "whole milk, 1 l",dairy / "green tea, 20 bags",drinks'
)
def classify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An exported student of a classification study.", show_default=False)
    ],
    texts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The texts to classify: CSV, TSV or parquet with a column of texts; or .txt with one text per line.",
            show_default=False,
        ),
    ],
    support: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labelled texts to adapt to: CSV, TSV or parquet with a column of texts and one of labels, at least "
            "two classes. Rows without a label are left out. Only a student of known classes needs none.",
        ),
    ] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Column of both files that holds the texts.")] = "text",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the support that holds labels.")] = "label",
    support_text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of texts in the support, if another than in --texts.")
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of second texts in both files, where the student reads pairs."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write a CSV file instead of a table; must not exist yet.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Give the probability of every label too.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Give the labelled texts that are nearest to each text too; not with --out."),
    ] = False,
    backend: Annotated[BackendName, typer.Option(help="Runtime of the encoder.")] = BackendName.torch,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: text, label, probability.")] = False,
) -> None:
    """Adapt an exported student to a few labelled texts of each class and classify other texts."""
    console = Console()
    if out is not None:
        if explain:
            raise InputError("--explain is shown or printed with --json, and no column of --out: leave one of them out")
        check_out(out)
    with console.progress("embedding the texts") as report:
        found = run(
            folder,
            support,
            texts,
            text=text,
            label=label,
            support_text=support_text,
            pair=pair,
            every=probabilities,
            explain=explain,
            backend=backend.value,
            progress=report,
            note=lambda remark: console.note(f"note: {remark}"),
        )
    if as_json:
        for row in found:
            typer.echo(visible(json.dumps(row.to_json(), ensure_ascii=False)))
    elif out is None:
        print_table(found, console)
    if out is not None:
        write_csv(found, out)
        console.note(f"{summary(found)}; written to {out}")
