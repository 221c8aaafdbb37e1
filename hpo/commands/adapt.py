"""`hpo adapt`: train a study's encoder on the shop's own data, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import Json, StudyFile, load
from hpo.commands.verb import verb

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer()


@app.command()
@verb("hpo adapt shop.toml --out shop-encoder")
def adapt(
    study: StudyFile,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the encoder as a sentence-transformers folder; must not exist."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a study's encoder as its [teacher.adapt] says, and show what that changes on validation. Resumable.

    hpo run and hpo launch do this themselves before the search, unless it is done already. Needs no database.
    """
    spec = load(study)
    from hpo.encoder_adaptation import adapt_encoder
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import adapt_outcome
    from hpo.status.console import Console

    console = Console()
    result = adapt_encoder(spec, console, None if out is None else out.absolute())
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        print_blocks(adapt_outcome(result), console)
