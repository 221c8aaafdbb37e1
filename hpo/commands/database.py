"""`hpo db`: start and stop the embedded PostgreSQL; back up, restore and upgrade any database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import Database
from hpo.commands.verb import verb
from storage.database.embedded import EmbeddedPostgres
from storage.home import home

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
app = typer.Typer(help="Manage the database: server, backup, upgrade.", no_args_is_help=True, rich_markup_mode=None)
_NOT_INCLUDED = "checkpoints are files and not part of the backup: copy the folder {folder} as well"


def _embedded() -> EmbeddedPostgres:
    return EmbeddedPostgres(home())


@app.command()
@verb("hpo db up")
def up() -> None:
    """Start the embedded PostgreSQL if it is not running, and print its URL."""
    typer.echo(_embedded().start())


@app.command()
@verb("hpo db down")
def down(
    force: Annotated[bool, typer.Option("--force", help="Stop it even if programs use it.")] = False,
) -> None:
    """Stop the embedded PostgreSQL unless a program uses it. Its data stay."""
    typer.echo("stopped" if _embedded().stop(force=force) else "was not running", err=True)


@app.command()
@verb('optuna studies --storage "$(hpo db url)"')
def url() -> None:
    """Print the URL of the embedded PostgreSQL for other tools, to read with. Starts the server if it is not running.

    What they delete or rename is lost to hpo; hpo delete and hpo dashboard keep trials and checkpoints together.
    """
    typer.echo(_embedded().start())


@app.command()
@verb("hpo db backup studies.zip")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup file to write.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    database: Database = None,
) -> None:
    """Write all studies to one file, and nothing else of the database. Workers may keep running."""
    from storage.database.backup import backup
    from storage.database.postgres import database_url
    from storage.database.urls import hide_password

    chosen = database_url(database)
    typer.echo(f"backing up {hide_password(chosen)}", err=True)
    size = backup(chosen, file, force)
    typer.echo(f"wrote {file} ({_readable(size)})", err=True)
    typer.echo(_NOT_INCLUDED.format(folder=home() / "artifacts"), err=True)


@app.command()
@verb("HPO_HOME=other hpo db restore studies.zip")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup file to read.", show_default=False)],
    database: Database = None,
) -> None:
    """Restore the studies of a backup into a database that holds none. Nothing in the file is run.

    Their checkpoints are copied if this home or HPO_ARTIFACTS has them: the restored studies share no file with others.
    """
    from hpo.ownership import copy_files
    from storage.database.backup import restore
    from storage.database.postgres import connect, database_url
    from storage.database.urls import hide_password

    chosen = database_url(database)
    typer.echo(f"restoring {file} into {hide_password(chosen)}", err=True)
    earlier = restore(chosen, file)
    typer.echo("restored", err=True)
    for source, folder in copy_files(connect(chosen), earlier):
        typer.echo(
            f"no checkpoints in {source}: copy that folder from the home that the backup is of to {folder}", err=True
        )


@app.command()
@verb("hpo db upgrade")
def upgrade(database: Database = None) -> None:
    """Upgrade the database's tables to this program's version. Stop all workers and make a backup first."""
    from storage.database.postgres import database_url, upgrade_database

    done = upgrade_database(database_url(database))
    for words in done or ["nothing to do: the database is up to date"]:
        typer.echo(words, err=True)


def _readable(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
