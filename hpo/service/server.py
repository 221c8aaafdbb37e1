"""`hpo serve`: opens an export, embeds a catalogue, and answers requests until it is told to stop.

address ─▶ files read ─▶ student opened, its texts joined in batches ─▶ catalogue embedded ─▶ requests
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.host_names import is_loopback
from hpo.serving.recommend import read_catalogue, read_taken
from hpo.status.console import Console
from storage.errors import InputError

# torch is imported once the arguments and files were checked; FastAPI, uvicorn and the Prometheus client are optional.
if TYPE_CHECKING:
    from fastapi import FastAPI

    from distill.serving.backends import Backend
    from hpo.service.app import Opened
    from hpo.service.limits import Limits
    from hpo.serving.recommend import Listing

TOKEN = "HPO_SERVE_TOKEN"
# Requests that are being answered have this long to end when the service stops.
SECONDS_TO_END = 30
_WAITING = 2048
_PACKAGES = ("fastapi", "orjson", "prometheus_client", "uvicorn")


def serve(
    folder: Path,
    console: Console,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    catalogue: Path | None = None,
    text: str = "text",
    taken: Path | None = None,
    backend: Backend = "torch",
    device: str = "auto",
    threads: int | None = None,
    token_file: Path | None = None,
    no_token: bool = False,
    limits: Limits | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are being answered end first.

    Args:
        folder: An export.
        console: For the address, on stdout, and for progress and notes.
        host: Address to listen on.
        port: Port to listen on; 0 for any.
        catalogue: File of `hpo.serving.recommend.read_catalogue`; for recommenders.
        text: The files' column of texts.
        taken: File of `hpo.serving.recommend.read_taken`; for recommenders of scenes that share items.
        backend: What runs the encoder.
        device: "auto", "cpu" or "cuda".
        threads: Of torch; one per core if left out.
        token_file: File of the bearer token; else the environment's HPO_SERVE_TOKEN.
        no_token: Whether other machines may ask without a token.
        limits: Of requests.

    Raises:
        InputError: A package, a file, the token or the device is missing, the address is none of this machine's or in
            use, or the folder is no export.
    """
    _check_installed()
    from hpo.service.limits import Limits

    limits = limits or Limits()
    token = read_token(token_file)
    if token is None and not no_token and not is_loopback(host):
        raise InputError(
            f"--host {host} is reached from other machines and there is no token: name a file of one with "
            f"--token-file, or set {TOKEN}; --no-token serves everyone who reaches it"
        )
    bound = bind(host, port)
    with bound:
        listing = None if catalogue is None else read_catalogue(catalogue, text)
        popularity = None if taken is None else read_taken(taken, text)
        _choose_device(device, threads)
        opened = open_service(folder, backend, limits, listing, popularity, console)
        from hpo.service.app import build

        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        _run(bound, build(opened, token, host), url, _about(opened, url, token is not None), console)


def _check_installed() -> None:
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise InputError(
                f"hpo serve needs the package {package.replace('_', '-')}, which is not installed; run: pip install "
                "'scenetune[serve]'"
            )


def read_token(path: Path | None) -> str | None:
    """Return the bearer token of a file, or else of the environment; None where there is none.

    Raises:
        InputError: The file cannot be read, or the token is blank or cannot stand in a header.
    """
    if path is None:
        token, place = os.environ.get(TOKEN), f"${TOKEN}"
    else:
        place = str(path)
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the token file {path} cannot be read ({error}); name a file with one line") from error
    if token is not None and (not token or not token.isascii() or any(not 33 <= ord(sign) <= 126 for sign in token)):
        raise InputError(
            f"the token in {place} is blank or has spaces or signs that no header takes: use letters and digits, such "
            "as those of `openssl rand -hex 32`"
        )
    return token


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, and does not listen yet.

    Raises:
        InputError: The address is none of this machine's, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named: else answers wait 40 ms for the client.
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(
            f"cannot listen on --host {host} --port {port} ({error.strerror}): accepted are an address of this machine "
            "and a free port; --port 0 takes any"
        ) from error
    return bound


def _choose_device(device: str, threads: int | None) -> None:
    """Set where the student runs.

    Raises:
        InputError: There is no CUDA device.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first asked for
    import torch

    from studies.model.device import share_cores

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but torch finds no CUDA device here: use --device cpu, or check the driver")
    share_cores(1, threads)


def open_service(
    folder: Path,
    backend: Backend,
    limits: Limits,
    listing: Listing | None,
    taken: list[tuple[str, float]] | None,
    console: Console,
) -> Opened:
    """Open an export as a service.

    Args:
        folder: The export; it is read once.
        backend: What runs the encoder.
        limits: Of requests.
        listing: The catalogue, for a recommender.
        taken: What was taken in other scenes, for a recommender.
        console: For progress.

    Raises:
        InputError: The folder is no export, or a classifier is given a catalogue.
    """
    from distill.inference import Popularity, StudentClassifier, StudentRecommender, load_export
    from hpo.service.app import Opened
    from hpo.service.batcher import Batcher
    from hpo.service.folder import Folder
    from hpo.service.metrics import Metrics
    from hpo.service.tasks.classification import ClassificationService
    from hpo.service.tasks.ranking import RankingService

    exported, metrics = load_export(folder), Metrics()
    manifest = exported.manifest
    state = Folder(folder, ("manifest.json", *manifest.files))
    batcher = Batcher(metrics.batch)
    if manifest.task == StudentClassifier.task:
        if listing is not None or taken is not None:
            raise InputError(f"{folder} holds a classifier, which has no catalogue: leave --catalogue and such out")
        classifier = StudentClassifier(exported, backend, wrap=batcher.wrap)
        return Opened(ClassificationService(classifier, limits, metrics), state, batcher, metrics)
    student = StudentRecommender(exported, backend, wrap=batcher.wrap)
    popularity = None if taken is None else Popularity.count(taken)
    catalogue = None
    if listing is not None:
        limits.check_items(len(listing.texts))
        with console.progress("embedding the catalogue") as report:
            catalogue = student.catalogue(listing.texts, listing.products, report, popularity)
    return Opened(RankingService(student, limits, metrics, catalogue, popularity), state, batcher, metrics)


def _about(opened: Opened, url: str, token: bool) -> list[str]:
    """Return what is served, and what to type to try it."""
    student = opened.service.student
    header = f' -H "Authorization: Bearer ${TOKEN}"' if token else ""
    return [
        f"serving the {student.task} student of {student.manifest.study}; {url}/docs lists all requests",
        f'try: curl{header} {url}/embed --json \'{{"texts": ["whole milk, 1 l"]}}\'',
        "Ctrl-C stops it",
    ]


def _run(bound: socket.socket, app: FastAPI, url: str, about: list[str], console: Console) -> None:
    """Answer requests until a signal comes, and end those that are being answered."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    try:
        bound.listen(_WAITING)
    except OSError as error:
        raise InputError(f"cannot listen on {url} ({error.strerror}); name a free port with --port") from error

    class Server(uvicorn.Server):
        """Gives the address once requests are answered and signals heard."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            console.out.print(url, soft_wrap=True)
            for line in about:
                console.note(line)

    with suppress(KeyboardInterrupt):  # raised by our own handler once the server has ended
        Server(config).run([bound])
    console.note("stopped")
