"""`hpo dashboard`: studies in optuna-dashboard."""

from __future__ import annotations

from typing import Annotated

import typer

from hpo.commands.options import Database, connect
from hpo.commands.verb import verb

app = typer.Typer()


@app.command()
@verb("hpo dashboard quickstart")
def dashboard(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="Whose page; by default the list.")] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="If it is in use, the next free one; 0 for any.")
    ] = 8080,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen. There is no login.")] = "127.0.0.1",
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody change anything.")] = False,
    browser: Annotated[bool, typer.Option("--open", help="Open it in the browser of this machine.")] = False,
    database: Database = None,
) -> None:
    """Show studies in optuna-dashboard, on this machine alone, until Ctrl-C."""
    from hpo.dashboard.server import serve
    from hpo.status.console import Console

    serve(connect(database), study, Console(), host=host, port=port, read_only=read_only, browser=browser)
