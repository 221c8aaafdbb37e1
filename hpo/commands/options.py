"""Flags and inputs that several verbs share: the database and the study file."""

from __future__ import annotations

import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
StudyFile = Annotated[
    Path,
    typer.Argument(metavar="STUDY.toml", help="The study file; docs/study-file.md has its keys.", show_default=False),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.", show_default=False)]
Database = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="postgresql://…; by default $HPO_DATABASE_URL or the embedded server.", show_default=False
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of workers; by default one per core.")]
Trials = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Total number of trials, instead of the study file's.")
]
Timeout = Annotated[
    float | None, typer.Option(min=0.01, metavar="MINUTES", help="Minutes of search, instead of the study file's.")
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address of the Ray cluster; by default the local one.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Export folder; must not exist yet.")]
Trec = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also write a ranking study's qrels and rankings in TREC formats; must not exist yet."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class BackendName(StrEnum):
    """The backends of `distill.serving.backends`."""

    torch = "torch"
    onnx = "onnx"
    int8 = "onnx-int8"


def connect(url: str | None, *, wait: bool = False, writes: bool = True) -> Any:
    """Connect to the database that the flag or the environment names, or to the embedded server.

    See `storage.database.postgres.connect`.
    """
    import optuna

    from storage.database.postgres import connect, database_url

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # The search uses Optuna's experimental grouped TPE on purpose; users cannot act on the warning.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return connect(database_url(url), wait=wait, writes=writes)


def load(study: Path, trials: int | None = None, timeout: float | None = None) -> Any:
    """Read a study file and apply the budgets given on the command line."""
    from studies.config.spec import load_spec

    return with_budget(load_spec(study), trials, timeout)


def with_budget(spec: Any, trials: int | None, timeout: float | None) -> Any:
    """Return a spec with the given budgets in place of its own; None keeps the spec's."""
    changes = {"trials": trials, "timeout_minutes": timeout}
    search = spec.search.model_copy(update={key: value for key, value in changes.items() if value is not None})
    return spec.model_copy(update={"search": search})
