"""`hpo launch`, `worker`, `status`, `stop`, `resume` and `delete`: run, follow and end a study's search."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer

from hpo.commands.options import (
    Address,
    Database,
    Json,
    Name,
    StudyFile,
    Timeout,
    Trials,
    Workers,
    connect,
    load,
    with_budget,
)
from hpo.commands.verb import verb
from hpo.workers.engines import EngineName
from hpo.workers.parent_watchdog import start_parent_watchdog
from storage.errors import InputError

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer()
Engine = Annotated[EngineName, typer.Option(help="Where workers run. external: start hpo worker NAME yourself.")]


@app.command()
@verb("hpo launch studies/quickstart.toml --workers 2 --trials 20")
def launch(
    study: StudyFile,
    workers: Workers = None,
    engine: Engine = EngineName.local,
    address: Address = None,
    trials: Trials = None,
    timeout: Timeout = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Run the search alone, or resume it."""
    spec = load(study, trials, timeout)
    opened = connect(database)
    if trials is not None:
        _check_budget(opened, spec)
    _search(opened, spec, as_json, workers, engine, address)


@app.command()
@verb("hpo resume quickstart --trials 40")
def resume(
    name: Name,
    workers: Workers = None,
    engine: Engine = EngineName.local,
    address: Address = None,
    trials: Trials = None,
    timeout: Timeout = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Resume a stopped search by its name."""
    from hpo.registry import load_runnable_spec_of

    opened = connect(database)
    spec = with_budget(load_runnable_spec_of(opened, name), trials, timeout)
    _check_budget(opened, spec)
    _search(opened, spec, as_json, workers, engine, address)


def _check_budget(opened: Any, spec: Any) -> None:
    from hpo.lifecycle import check_startable
    from storage.database.records import Records

    if Records(opened.engine).load_study(spec.name) is not None:
        check_startable(opened, spec)


def _search(
    opened: Any, spec: Any, as_json: bool, workers: int | None, engine: EngineName, address: str | None
) -> None:
    from hpo import job
    from hpo.status.console import Console
    from hpo.workers import launcher
    from hpo.workers.study_lease import study_lease

    console = Console()
    with study_lease(opened, spec.name):
        starts = launcher.make_engine(engine, opened, spec, workers, address)
        spec, _ = job.begin(opened, spec, console, workers)
        launcher.launch(opened, spec, console, engine=starts, workers=workers)
    if as_json or not console.shown:
        print_status(opened, spec, as_json)


@app.command()
@verb("hpo worker quickstart --database postgresql://scenetune@db/scenetune")
def worker(
    name: Name,
    database: Database = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until a study of that name is launched.")] = False,
    of: Annotated[int, typer.Option(min=1, metavar="N", help="Number of workers that share this machine's cores.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads, instead of an equal part of the cores.")
    ] = None,
) -> None:
    """Join a launched study and run trials until its search ends or is stopped."""
    start_parent_watchdog()
    from hpo.workers.worker import wait_for, work

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    opened = connect(database, wait=True)
    if wait:
        wait_for(opened, name)
    count = work(opened, name, workers=of, threads=threads)
    typer.echo(f"ran {count} trials of {name}", err=True)


@app.command()
@verb("hpo status quickstart --json")
def status(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The study; by default all studies.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow one study until its search ends; with --json, one line each.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show every trial instead of at most twelve.")] = False,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Show the state of a study: trials, budgets, speed, and why trials were stopped."""
    from hpo.registry import load_spec_of
    from storage.database.records import Records

    opened = connect(database, writes=False)
    if name is None:
        if watch:
            raise InputError("hpo status --watch follows one study; give its name, such as hpo status NAME --watch")
        _print_all(opened, Records(opened.engine).study_names(), as_json)
    elif watch:
        _watch(opened, load_spec_of(opened, name), as_json)
    else:
        print_status(opened, load_spec_of(opened, name), as_json, everything=everything)


def _print_all(opened: Any, names: list[str], as_json: bool) -> None:
    from hpo.ownership import orphans
    from hpo.registry import load_spec_of
    from hpo.status.console import Console
    from hpo.status.snapshot import snapshot
    from hpo.status.watch import overview

    shots, faults = [], {}
    for name in names:
        try:
            shots.append(snapshot(opened, load_spec_of(opened, name)))
        except InputError as error:
            faults[name] = str(error)
    for name in orphans(opened):
        faults[name] = (
            f"the records of the Optuna study {name!r} are gone: hpo db restore reads a backup into another database; "
            "optuna delete-study removes what is left here"
        )
    if as_json:
        for shot in shots:
            typer.echo(json.dumps(shot.to_json()))
        for name, fault in faults.items():
            typer.echo(json.dumps({"name": name, "error": fault}))
        return
    console = Console()
    if shots:
        console.out.print(overview(shots))
    elif not faults:
        typer.echo("no studies yet; hpo launch STUDY.toml starts one", err=True)
    for fault in faults.values():
        console.note(fault)


def _watch(opened: Any, spec: Any, as_json: bool) -> None:
    from hpo.status.console import Console
    from hpo.status.snapshot import Observer
    from hpo.status.watch import JsonLines, LiveTable, follow

    observer, console = Observer(opened, spec), Console()
    if as_json:
        follow(JsonLines(observer, typer.echo))
        return
    with LiveTable(observer, console) as table:
        follow(table)
    if not console.shown:
        print_status(opened, spec, as_json=False)


def print_status(opened: Any, spec: Any, as_json: bool, *, everything: bool = False) -> None:
    """Print the state of a study, as a table or as JSON."""
    from hpo.status.console import Console
    from hpo.status.snapshot import snapshot
    from hpo.status.watch import ROWS, render

    shot = snapshot(opened, spec)
    if as_json:
        typer.echo(json.dumps(shot.to_json()))
    else:
        Console().out.print(render(shot, rows=None if everything else ROWS))


@app.command()
@verb("hpo stop quickstart")
def stop(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Pause running trials now, not at their next rung.")] = False,
    wait: Annotated[bool, typer.Option(help="Return when no trial is running.")] = True,
    database: Database = None,
) -> None:
    """Stop a study's workers on all machines. Their trials pause at a checkpoint; hpo resume continues them."""
    from hpo import lifecycle
    from hpo.registry import load_spec_of
    from hpo.status.console import Console

    opened = connect(database)
    lifecycle.stop(opened, load_spec_of(opened, name), Console(), "now" if now else "rung", wait=wait)
    typer.echo(
        f"{name} {'is stopped' if wait else 'stops'}; to continue: hpo resume {name}, or hpo run with its study file",
        err=True,
    )


@app.command()
@verb("hpo delete quickstart --yes")
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    database: Database = None,
) -> None:
    """Delete a study with its distillation and all checkpoints. Exports and reports stay. This cannot be undone."""
    from hpo import lifecycle
    from hpo.ownership import owned_search

    opened = connect(database)
    owned = owned_search(opened, name)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"hpo delete {name} asks for confirmation, and stdin is not a terminal; add --yes")
        trials = len(owned.open().get_trials(deepcopy=False)) if owned.exists() else 0
        question = f"Delete study {name}, its {trials} trials and their checkpoints?"
        if not typer.confirm(question, err=True):
            typer.echo("nothing was deleted", err=True)
            return
    for note in lifecycle.delete(opened, name):
        typer.echo(note, err=True)
    typer.echo(f"deleted {name}", err=True)
