"""`hpo export` and `hpo evaluate`: export the best student, and verify an export against its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hpo.commands.options import Database, Json, Name, Trec, connect, load
from hpo.commands.verb import verb
from storage.errors import InputError
from storage.home import cache_folder

# Verbs import what they run inside the function: `hpo --help` loads neither torch, Optuna nor SQLAlchemy.
if TYPE_CHECKING:
    from studies.config.definition import Format

app = typer.Typer()
# What an export may hold, and those of it that are encoders of their own.
_FORMATS, _ENCODERS = "hf, onnx, onnx-int8, triton, pt2", "hf, onnx, onnx-int8"


@app.command()
@verb("hpo export quickstart --out exports/quickstart-onnx --format hf,onnx")
def export(
    name: Name,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Export folder; must not exist yet.", show_default=False)],
    formats: Annotated[
        str | None,
        typer.Option("--format", metavar="LIST", help=f"Comma-separated, of {_FORMATS}; by default the study file's."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Precision of the weights: fp32, fp16 or bf16; by default the study file's."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export.")] = False,
    database: Database = None,
) -> None:
    """Export the best student of a finished study to a folder that transformers and sentence-transformers can open."""
    from hpo.registry import load_runnable_spec_of
    from hpo.stages import check_evaluated

    opened = connect(database)
    spec = _with_export(load_runnable_spec_of(opened, name), formats, precision)
    check_evaluated(opened, name)
    from hpo.export import check_export
    from hpo.export import export as write_export
    from hpo.status.console import Console
    from storage.database.records import Records
    from studies.training.prepare import prepare

    folder = out.absolute()
    check_export(Records(opened.engine), spec, folder, force=force)

    console = Console()
    problem = prepare(spec, cache_folder(), reporter=console)
    typer.echo(write_export(opened, spec, problem, folder, console, force=force))


def _with_export(spec: Any, formats: str | None, precision: str | None) -> Any:
    """Return the spec with the export settings of the command line."""
    from studies.config.spec import parse_spec

    section = spec.export.model_dump(mode="json")
    if formats is not None:
        section["formats"] = [each.strip() for each in formats.split(",")]
    if precision is not None:
        section["precision"] = precision
    return parse_spec(spec.model_dump(mode="json") | {"export": section}, "the command line")


@app.command()
@verb("hpo evaluate exports/quickstart")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An exported student.", show_default=False)],
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY.toml", help="Read the data from where this file's [data] says.")
    ] = None,
    format: Annotated[str, typer.Option(metavar="NAME", help=f"Encoder to evaluate: {_ENCODERS}.")] = "hf",
    trec: Trec = None,
    as_json: Json = False,
) -> None:
    """Evaluate an export on its study's test episodes again and compare the figures with its manifest."""
    if format not in _ENCODERS.split(", "):
        raise InputError(f"--format {format} is no encoder that is evaluated; one of {_ENCODERS}")
    from hpo.results.exported import evaluate_export
    from hpo.status.console import Console

    console = Console()
    data = load(study).data if study else None
    result = evaluate_export(folder, console, trec, data, cast("Format", format))
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    from hpo.reporting.renderers.terminal import print_blocks
    from hpo.reporting.sections.outcome import export_outcome

    print_blocks(export_outcome(result), console)
