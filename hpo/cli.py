"""The command line: each verb parses its flags, calls one documented function, prints the result.

Heavy imports happen inside the verbs: `hpo --help` loads neither torch nor Optuna. Results go to stdout, progress to
stderr. Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from storage.errors import InputError, ScenetuneError

P = ParamSpec("P")

app = typer.Typer(
    help="Search meta-learners for new scenes, distil the winners, export the student.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
db = typer.Typer(help="The embedded PostgreSQL.", no_args_is_help=True, rich_markup_mode=None)
data = typer.Typer(help="The study's data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(db, name="db")
app.add_typer(data, name="data")

_debug = False


class Part(StrEnum):
    """The held-out parts of a study's scenes, as the command line names them."""

    validation = "validation"
    test = "test"


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.", show_default=False)]
Database = Annotated[
    str | None,
    typer.Option(help="postgresql://… URL; else $HPO_DATABASE_URL, else the embedded server.", show_default=False),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one per core.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Trials in all, instead of the study file's.")]
Timeout = Annotated[float | None, typer.Option(min=0.01, help="Minutes of searching, instead of the study file's.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Export folder; must not exist yet.")]
Trec = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also write qrels and rankings in TREC formats; must not exist yet.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Options of every verb."""
    global _debug
    _debug = debug


def verb(example: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Makes a function end as a command should: one `error:` line, the right exit code; its help ends in an example."""

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                typer.echo("interrupted; nothing finished is lost: the same command goes on from here", err=True)
                raise typer.Exit(130) from None
            except ScenetuneError as error:
                _fail(error, error.exit_code)
            except Exception as error:
                _fail(error, 1, f"{type(error).__name__}: {error}; hpo --debug shows where it happened")

        guarded.__doc__ = f"{function.__doc__}\n\n\b\nExample: {example}"
        return guarded

    return decorate


def _fail(error: Exception, code: int, text: str | None = None) -> None:
    if _debug:
        raise error
    typer.echo(f"error: {' '.join((text or str(error)).split())}", err=True)
    raise typer.Exit(code) from None


def _connect(url: str | None) -> Any:
    import optuna

    from storage.postgres import connect, database_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Heartbeats and grouped TPE are used on purpose; a user can do nothing about the warning.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return connect(database_url(url))


def _load(study: Path, trials: int | None = None, timeout: float | None = None) -> Any:
    from studies.spec import load_spec

    spec = load_spec(study)
    changes = {"trials": trials, "timeout_minutes": timeout}
    search = spec.search.model_copy(update={key: value for key, value in changes.items() if value is not None})
    return spec.model_copy(update={"search": search})


@app.command()
@verb("hpo run studies/quickstart.toml")
def run(
    study: StudyFile,
    workers: Workers = None,
    trials: Trials = None,
    timeout: Timeout = None,
    out: Out = None,
    trec: Trec = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Run the whole job: search, distil, evaluate, export, report. Run it again to go on after any interruption."""
    spec = _load(study, trials, timeout)
    from hpo import job
    from hpo.console import Console
    from hpo.report import print_result

    console = Console()
    started = time.monotonic()
    result = job.run(_connect(database), spec, console, workers=workers, out=out, trec=trec)
    if as_json:
        typer.echo(json.dumps(result))
        return
    from hpo.console import duration

    print_result(result, console)
    console.note(f"took {duration(time.monotonic() - started)}; the database keeps running until: hpo db down")


@app.command()
@verb("hpo launch studies/quickstart.toml --workers 2 --trials 20")
def launch(
    study: StudyFile,
    workers: Workers = None,
    trials: Trials = None,
    timeout: Timeout = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Run the search alone, or go on with it."""
    spec = _load(study, trials, timeout)
    from hpo import job, launcher
    from hpo.console import Console

    console = Console()
    opened = _connect(database)
    spec, _ = job.begin(opened, spec, console, workers)
    launcher.launch(opened, spec, console, workers=workers)
    _print_status(opened, spec, as_json)


@app.command()
@verb("hpo worker quickstart --database postgresql://scenetune@db/scenetune")
def worker(
    name: Name,
    database: Database = None,
    index: Annotated[int, typer.Option(min=0, help="Number of this worker on this machine.")] = 0,
    of: Annotated[int, typer.Option(min=1, help="Workers on this machine, which share its cores.")] = 1,
) -> None:
    """Join a launched study and run trials until its budget is spent."""
    from hpo.worker import work

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    count = work(_connect(database), name, worker=index, workers=of)
    typer.echo(f"ran {count} trials of {name}", err=True)


@app.command()
@verb("hpo status quickstart --json")
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The study; by default all.")] = None,
    watch: Annotated[bool, typer.Option(help="Refresh every second until the search is finished.")] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show where a study stands."""
    from hpo.search import load_spec_of
    from storage.records import Records

    opened = _connect(database)
    names = [name] if name else Records(opened.engine).study_names()
    if not names and not as_json:
        typer.echo("no studies yet; hpo launch STUDY.toml starts one", err=True)
    if watch:
        if name is None:
            raise InputError("hpo status --watch follows one study; give its name, such as hpo status NAME --watch")
        _watch(opened, load_spec_of(opened, name))
    for each in names:
        _print_status(opened, load_spec_of(opened, each), as_json)


def _watch(opened: Any, spec: Any) -> None:
    from hpo.console import Console
    from hpo.watch import LiveTable, snapshot

    with LiveTable(opened, spec, Console()) as table:
        while not snapshot(opened, spec).finished:
            table.refresh()
            time.sleep(1)


def _print_status(opened: Any, spec: Any, as_json: bool) -> None:
    from hpo.console import Console
    from hpo.watch import render, snapshot

    shot = snapshot(opened, spec)
    if as_json:
        typer.echo(json.dumps(shot.to_json()))
    else:
        Console().out.print(render(shot))


@app.command()
@verb("hpo export quickstart --out exports/quickstart-copy")
def export(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Export folder; must not exist yet.", show_default=False)],
    database: Database = None,
) -> None:
    """Write a finished study's best student into a folder that transformers and sentence-transformers open."""
    from hpo import job
    from hpo.console import Console
    from hpo.search import cache_folder, load_spec_of
    from studies.objective import prepare

    opened = _connect(database)
    spec = load_spec_of(opened, name)
    job.check_evaluated(opened, name)
    folder = job.export(opened, spec, prepare(spec, cache_folder()), out.absolute(), Console())
    typer.echo(folder)


@app.command()
@verb("hpo evaluate exports/quickstart")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported student.", show_default=False)],
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY.toml", help="Take the data that its [data] names: they have moved.")
    ] = None,
    trec: Trec = None,
    as_json: Json = False,
) -> None:
    """Score an exported student again on its study's test scenes, and compare with what its manifest says."""
    from hpo.console import Console
    from hpo.evaluation import evaluate_export

    console = Console()
    with console.progress("scoring test scenes") as report:
        result = evaluate_export(folder, report, trec, _load(study).data if study else None)
    if as_json:
        typer.echo(json.dumps(result))
        return
    from hpo.report import print_export_evaluation

    print_export_evaluation(result, console)


@app.command()
@verb("hpo report quickstart --out reports/quickstart")
def report(
    name: Name,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Its folder; by default reports/NAME.")] = None,
    database: Database = None,
) -> None:
    """Write a finished study's report: one self-contained HTML page, with Markdown and JSON beside it."""
    from hpo import job
    from hpo.search import load_spec_of

    opened = _connect(database)
    typer.echo(job.write_report(opened, load_spec_of(opened, name), (out or job.report_folder(name)).absolute()))


@app.command()
@verb("hpo baselines studies/quickstart.toml")
def baselines(
    study: StudyFile,
    part: Annotated[Part, typer.Option(help="Whose scenes to score.")] = Part.validation,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write a report there.")] = None,
    trec: Trec = None,
    as_json: Json = False,
) -> None:
    """Score what learns nothing on a study's scenes: the bar for any search, in seconds. Needs no database."""
    spec = _load(study)
    from hpo.console import Console
    from hpo.evaluation import evaluate_baselines

    console = Console()
    result = evaluate_baselines(spec, part.value, console.progress, trec)
    if out is not None:
        from hpo.reporting.document import baselines_document
        from hpo.reporting.page import write

        console.note(f"report: {write(baselines_document(spec, result), out.absolute())[0]}")
    if as_json:
        typer.echo(json.dumps(result))
        return
    from hpo.report import recall_table

    console.out.print(recall_table(result))


@data.command("check")
@verb("hpo data check studies/quickstart.toml")
def check(study: StudyFile, as_json: Json = False) -> None:
    """Show what is in a study's data, what was dropped and why, what is wrong with it, and whether anything leaks."""
    spec = _load(study)
    from hpo.console import Console
    from hpo.data_check import check as examine
    from hpo.data_check import print_check
    from hpo.search import cache_folder

    result = examine(spec, cache_folder())
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_check(result, Console())
    if result["error"] is not None:
        raise InputError(result["error"])


def _embedded() -> Any:
    from storage.embedded import EmbeddedPostgres
    from storage.home import home

    return EmbeddedPostgres(home())


@db.command()
@verb("hpo db up")
def up() -> None:
    """Start the embedded PostgreSQL, if it is not running, and print its URL."""
    typer.echo(_embedded().start())


@db.command()
@verb("hpo db down")
def down() -> None:
    """Stop the embedded PostgreSQL; its data stay."""
    typer.echo("stopped" if _embedded().stop() else "was not running", err=True)


@db.command()
@verb('optuna-dashboard "$(hpo db url)"')
def url() -> None:
    """Print the URL of the embedded PostgreSQL, started if need be, for any tool that takes one."""
    typer.echo(_embedded().start())


def main() -> None:
    """Entry point of the `hpo` script."""
    # Read when torch is loaded: idle threads sleep instead of spinning, which costs nothing on a quiet machine and
    # saves a factor on one that is shared (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Schedulers stop a job with SIGTERM: it ends the way Ctrl-C does, in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
