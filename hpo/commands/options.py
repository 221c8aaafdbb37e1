"""What several verbs take: their flags, the database, the study file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.", show_default=False)]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="postgresql://…; else $HPO_DATABASE_URL, else the embedded server.", show_default=False
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Workers; by default one per core.")]
Trials = Annotated[int | None, typer.Option(min=1, metavar="N", help="Trials in all, instead of the study file's.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.01, metavar="MINUTES", help="Minutes of searching, instead of the study file's.")
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Of the Ray cluster; by default the one that runs here.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Export folder; must not exist yet.")]
Trec = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also write qrels and rankings in TREC formats; must not exist yet.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def connect(url: str | None, *, wait: bool = False) -> Any:
    """Opens the database that a URL, the environment, or nothing names; see `storage.database.postgres.connect`."""
    import optuna

    from storage.database.postgres import connect, database_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Grouped TPE is used on purpose; a user can do nothing about the warning.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return connect(database_url(url), wait=wait)


def load(study: Path, trials: int | None = None, timeout: float | None = None) -> Any:
    """Reads a study file, with budgets from the command line in the place of its own."""
    from studies.config.spec import load_spec

    return with_budget(load_spec(study), trials, timeout)


def with_budget(spec: Any, trials: int | None, timeout: float | None) -> Any:
    """A spec with other budgets, where they are given."""
    changes = {"trials": trials, "timeout_minutes": timeout}
    search = spec.search.model_copy(update={key: value for key, value in changes.items() if value is not None})
    return spec.model_copy(update={"search": search})
