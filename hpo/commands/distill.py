"""`hpo distill`: distil students from a finished search, without scoring its test scenes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hpo.commands.options import Database, Json, Name, connect
from hpo.commands.verb import verb

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer()


@app.command()
@verb("hpo distill quickstart --trials 4")
def distill(
    name: Name,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Total number of students, instead of the study file's.")
    ] = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Distil the winners of a search into students, or resume that, and list them. hpo run exports the best one."""
    from hpo.registry import load_runnable_spec_of
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import distillation_outcome
    from hpo.reporting.task_words import words_for
    from hpo.results import distillation
    from hpo.status.console import Console

    opened, console = connect(database), Console()
    spec = load_runnable_spec_of(opened, name)
    if trials is not None:
        spec = spec.model_copy(update={"distill": spec.distill.model_copy(update={"trials": trials})})
    found = distillation.distil_study(opened, spec, console)
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in found]))
    else:
        print_blocks(distillation_outcome(found, spec.metric, words_for(spec.task, spec.protocol.kind)), console)
