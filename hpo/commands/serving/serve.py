"""`hpo serve`: answer requests over HTTP with an exported student."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpo.commands.options import BackendName
from hpo.commands.serving.options import Backend, Export, Text
from hpo.commands.verb import verb

# Verbs import what they run inside the function: `hpo --help` loads neither torch nor FastAPI.
app = typer.Typer()


class DeviceName(StrEnum):
    """Where a student runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.command()
@verb("hpo serve exports/quickstart --catalogue items.csv --port 8000")
def serve(
    folder: Export,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A recommender's catalogue, as of hpo recommend; items can be added with POST /catalogue.",
            show_default=False,
        ),
    ] = None,
    text: Text = "text",
    taken: Annotated[
        Path | None,
        typer.Option(
            "--popularity",
            metavar="FILE",
            help="What was taken in other scenes lately, as of hpo recommend. As of the export if left out.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; others than loopback need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on; 0 for any.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of the bearer token that requests must send; by default $HPO_SERVE_TOKEN, if it is set.",
            show_default=False,
        ),
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let other machines ask without a token.")] = False,
    backend: Backend = BackendName.torch,
    device: Annotated[DeviceName, typer.Option(help="Where it runs; auto is CUDA if there is one.")] = DeviceName.auto,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of torch; by default one per core.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, metavar="N", help="Scenes that are kept, those used last.")] = 100,
    max_items: Annotated[int, typer.Option(min=1, metavar="N", help="Most items of a catalogue.")] = 200_000,
    max_texts: Annotated[int, typer.Option(min=1, metavar="N", help="Most texts of a request.")] = 10_000,
    max_characters: Annotated[int, typer.Option(min=1, metavar="N", help="Most characters of a text.")] = 10_000,
    max_body: Annotated[float, typer.Option(min=0.001, metavar="MIB", help="Most MiB of a request.")] = 8,
) -> None:
    """Serve an exported student over HTTP until Ctrl-C or SIGTERM. By default on this machine only."""
    from hpo.service.limits import MIB, Limits
    from hpo.service.server import serve as run
    from hpo.status.console import Console

    run(
        folder,
        Console(),
        host=host,
        port=port,
        catalogue=catalogue,
        text=text,
        taken=taken,
        backend=backend.value,
        device=device.value,
        threads=threads,
        token_file=token_file,
        no_token=no_token,
        limits=Limits(
            scenes=scenes, items=max_items, texts=max_texts, characters=max_characters, body=int(max_body * MIB)
        ),
    )
