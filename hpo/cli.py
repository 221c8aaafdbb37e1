"""The command line: each verb parses its flags, calls one documented function and prints the result.

Results go to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted. The verbs of
one topic are in `hpo/commands/`.
"""

from __future__ import annotations

import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands import adapt, dashboard, distill, students, studies
from hpo.commands import database as database_verbs
from hpo.commands.options import (
    Address,
    Database,
    Json,
    Name,
    Out,
    StudyFile,
    Timeout,
    Trec,
    Trials,
    Workers,
    connect,
    load,
)
from hpo.commands.serving import classify, nearest, recommend, serve
from hpo.commands.verb import settings, verb
from hpo.signals import interrupts
from hpo.status.console import Console, duration
from hpo.workers.engines import EngineName
from storage.errors import InputError
from storage.home import cache_folder

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer(
    help="Search meta-learners for new scenes or new classes, distil the winners, export the student.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
data = typer.Typer(help="Inspect a study's data.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Store the options that come before the verb."""
    settings.debug = debug


class SplitName(StrEnum):
    """The held-out splits of a study."""

    validation = "validation"
    test = "test"


@app.command()
@verb("hpo run studies/quickstart.toml")
def run(
    study: StudyFile,
    workers: Workers = None,
    engine: studies.Engine = EngineName.local,
    address: Address = None,
    trials: Trials = None,
    timeout: Timeout = None,
    out: Out = None,
    trec: Trec = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Run the whole job: search, distil, evaluate, export, report. Run it again to resume after an interruption."""
    spec = load(study, trials, timeout)
    from hpo import job
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import job_outcome
    from storage.database.postgres import uses_embedded

    console = Console()
    started = time.monotonic()
    opened = connect(database)
    result = job.run(opened, spec, console, workers=workers, engine=engine, address=address, out=out, trec=trec)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return

    print_blocks(job_outcome(result), console)
    running = "; the database keeps running until: hpo db down" if uses_embedded(database) else ""
    console.note(f"took {duration(time.monotonic() - started)}{running}")


app.add_typer(adapt.app)
app.add_typer(studies.app)
app.add_typer(distill.app)


app.add_typer(dashboard.app)
app.add_typer(students.app)
app.add_typer(recommend.app)
app.add_typer(nearest.app)
app.add_typer(classify.app)
app.add_typer(serve.app)


@app.command()
@verb("hpo report quickstart --out reports/quickstart")
def report(
    name: Name,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder; by default reports/NAME.")] = None,
    database: Database = None,
) -> None:
    """Write the report of a finished study: one self-contained HTML page, with Markdown and JSON beside it."""
    from hpo.ownership import load_record
    from hpo.registry import load_spec_of
    from hpo.reporting.study_report import report_folder, write_report

    opened = connect(database)
    folder = (out or report_folder(name, load_record(opened, name).id)).absolute()
    typer.echo(write_report(opened, load_spec_of(opened, name), folder))


@app.command()
@verb("hpo baselines studies/quickstart.toml")
def baselines(
    study: StudyFile,
    part: Annotated[SplitName, typer.Option(help="Split to evaluate on.")] = SplitName.validation,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write a report into this folder.")] = None,
    trec: Trec = None,
    as_json: Json = False,
) -> None:
    """Evaluate untrained baselines, which a search has to beat. Takes seconds and no database."""
    spec = load(study)
    from hpo.results.evaluation import evaluate_baselines

    console = Console()
    if out is not None:
        from hpo.reporting.study_report import check_report_folder

        check_report_folder(spec.name, out.absolute())
    result = evaluate_baselines(spec, part.value, console, trec)
    if out is not None:
        from hpo.reporting.renderers.page import write
        from hpo.reporting.study_report import baselines_document

        console.note(f"report: {write(baselines_document(spec, result), out.absolute())[0]}")
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import baselines_outcome

    print_blocks([baselines_outcome(result)], console)


@data.command("check")
@verb("hpo data check studies/quickstart.toml")
def check(study: StudyFile, as_json: Json = False) -> None:
    """Check a study's data: rows read and dropped, scenes or classes, splits, warnings, and the leakage audit."""
    spec = load(study)
    from hpo.results.task_stages import stage

    console = Console()
    result = stage(spec, "check")(spec, cache_folder(), console)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        stage(spec, "print_check")(result, console)
    if result.error is not None:
        raise InputError(result.error)


app.add_typer(data, name="data")
app.add_typer(database_verbs.app, name="db")


def main() -> None:
    """Run the `hpo` script."""
    # torch reads this when it is loaded. Idle threads then sleep instead of spinning, which costs nothing on a quiet
    # machine and is much faster on a shared one (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    interrupts.install()
    app()
