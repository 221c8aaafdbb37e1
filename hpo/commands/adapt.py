"""`hpo adapt`: train a study's encoder on the shop's own data, without a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import Json, StudyFile, load
from hpo.commands.verb import verb
from storage.errors import InputError

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
    trials: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Try N settings of objectives, steps and lr, and print the best table."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a study's encoder as its [teacher.adapt] says, and show what that changes on validation. Resumable.

    hpo run and hpo launch do this themselves before the search, unless it is done already. Needs no database.
    """
    spec = load(study)
    import optuna

    from hpo.adaptation.encoder import adapt_encoder
    from hpo.adaptation.search import search_adaptation
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import adapt_outcome, adapt_search_outcome
    from hpo.status.console import Console

    if trials is not None and out is not None:
        raise InputError(
            "--trials and --out do not go together: put the best table into the study file, then use --out"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console()
    if trials is not None:
        searched = search_adaptation(spec, trials, console)
        blocks, found = adapt_search_outcome(searched), searched.to_json()
    else:
        result = adapt_encoder(spec, console, None if out is None else out.absolute())
        blocks, found = adapt_outcome(result), result.to_json()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_blocks(blocks, console)
