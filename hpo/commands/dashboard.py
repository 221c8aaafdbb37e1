"""`hpo dashboard`: serve optuna-dashboard."""

from __future__ import annotations

from typing import Annotated

import typer

from hpo.commands.options import Database, connect
from hpo.commands.verb import verb

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer()


@app.command()
@verb("hpo dashboard quickstart")
def dashboard(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY", help="Open this study's page; by default the list.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port; the next free one if it is in use; 0 for any.")
    ] = 8080,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. There is no login.")
    ] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name by which browsers reach it, such as a proxy's; repeatable."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse changes of notes too.")] = False,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
    database: Database = None,
) -> None:
    """Serve optuna-dashboard for all studies of the database until Ctrl-C. By default on this machine only."""
    from hpo.dashboard.server import serve
    from hpo.status.console import Console

    serve(
        connect(database),
        study,
        Console(),
        host=host,
        port=port,
        allowed_hosts=allowed_host or (),
        read_only=read_only,
        browser=browser,
    )
