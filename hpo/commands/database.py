"""`hpo db`: the embedded PostgreSQL, and the backup, restoring and upgrading of any database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpo.commands.options import Database
from hpo.commands.verb import verb
from storage.database.embedded import EmbeddedPostgres
from storage.home import home

app = typer.Typer(help="The database: the embedded PostgreSQL, backups.", no_args_is_help=True, rich_markup_mode=None)
_NOT_INCLUDED = "checkpoints are files, not in the backup: copy the folder {folder} as well"


def _embedded() -> Any:

    return EmbeddedPostgres(home())


@app.command()
@verb("hpo db up")
def up() -> None:
    """Start the embedded PostgreSQL, if it is not running, and print its URL."""
    typer.echo(_embedded().start())


@app.command()
@verb("hpo db down")
def down(
    force: Annotated[bool, typer.Option("--force", help="Cut off the programs that use it.")] = False,
) -> None:
    """Stop the embedded PostgreSQL, unless a program uses it; its data stay."""
    typer.echo("stopped" if _embedded().stop(force=force) else "was not running", err=True)


@app.command()
@verb('optuna-dashboard "$(hpo db url)"')
def url() -> None:
    """Print the URL of the embedded PostgreSQL, started if need be, for any tool that takes one."""
    typer.echo(_embedded().start())


@app.command()
@verb("hpo db backup studies.dump")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    database: Database = None,
) -> None:
    """Write all studies of the database into one file; workers may go on meanwhile."""
    from storage.database.backup import backup
    from storage.database.postgres import database_url
    from storage.database.urls import hide_password

    chosen = database_url(database)
    typer.echo(f"backing up {hide_password(chosen)}", err=True)
    size = backup(chosen, file, force)
    typer.echo(f"wrote {file} ({_readable(size)})", err=True)
    typer.echo(_NOT_INCLUDED.format(folder=home() / "artifacts"), err=True)


@app.command()
@verb("HPO_HOME=other hpo db restore studies.dump")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.", show_default=False)],
    database: Database = None,
) -> None:
    """Bring the studies of a backup into a database that holds none."""
    from storage.database.backup import restore
    from storage.database.postgres import database_url
    from storage.database.urls import hide_password

    chosen = database_url(database)
    typer.echo(f"restoring {file} into {hide_password(chosen)}", err=True)
    restore(chosen, file)
    typer.echo("restored", err=True)
    typer.echo(_NOT_INCLUDED.format(folder=home() / "artifacts"), err=True)


@app.command()
@verb("hpo db upgrade")
def upgrade(database: Database = None) -> None:
    """Bring the database's tables to the version that this program needs; first stop all workers and make a backup."""
    from storage.database.postgres import database_url, upgrade_database

    done = upgrade_database(database_url(database))
    for words in done or ["nothing to do: the database is up to date"]:
        typer.echo(words, err=True)


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
