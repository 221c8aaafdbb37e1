"""The application: what every student answers, and what its task adds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Response, Security
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer

from hpo.host_names import HostNames, is_loopback
from hpo.service.batcher import Batcher
from hpo.service.folder import Folder
from hpo.service.front.answers import DOCUMENTED, JsonAnswer, install
from hpo.service.front.gate import Gate
from hpo.service.front.page import page
from hpo.service.metrics import Metrics
from hpo.service.scenes import SceneName
from hpo.service.tasks import classification, nearest, ranking
from hpo.service.tasks.bodies import EmbedRequest, Health, SceneList, Vectors
from hpo.service.tasks.classification import ClassificationService
from hpo.service.tasks.pairs import as_texts
from hpo.service.tasks.ranking import RankingService
from hpo.service.workers import Workers

Service = RankingService | ClassificationService


@dataclass(frozen=True)
class Opened:
    """An export as a service.

    Attributes:
        service: Answers the task's requests.
        folder: The export's.
        batcher: Embeds its texts.
        metrics: Of the service.
    """

    service: Service
    folder: Folder
    batcher: Batcher
    metrics: Metrics


def build(opened: Opened, token: str | None = None, host: str = "127.0.0.1") -> FastAPI:
    """Return the application of a student.

    Args:
        opened: The student.
        token: The bearer token; None where none is needed.
        host: The address or name that it listens on.
    """
    service, metrics, workers = opened.service, opened.metrics, Workers()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        opened.batcher.close()
        workers.close()

    study = service.student.manifest.study
    app = FastAPI(
        title=f"hpo serve: {study}",
        description=f"A student of {service.student.task}, of the study {study}.",
        version="1",
        lifespan=lifespan,
        responses=DOCUMENTED,
        # For the description alone: the gate checks tokens before it reads a body.
        dependencies=[Security(HTTPBearer(auto_error=False))] if token else [],
        # FastAPI's own pages load their scripts from another site.
        docs_url=None,
        redoc_url=None,
    )
    hosts = HostNames(host) if token is None and is_loopback(host) else None
    app.add_middleware(Gate, service.limits, metrics, token, hosts)
    install(app)
    _add_state(app, service, opened.folder, metrics)
    _add_texts(app, service, workers)
    if service.adapts:
        _add_scenes(app, service)
    if isinstance(service, RankingService):
        ranking.add_routes(app, service, workers)
        nearest.add_routes(app, service, workers)
    else:
        classification.add_routes(app, service, workers)
    metrics.watch("scenes", "Scenes that are kept.", lambda: len(service.scenes))
    metrics.watch("catalogue_items", "Items of the catalogue.", lambda: service.items)
    return app


def _add_state(app: FastAPI, service: Service, folder: Folder, metrics: Metrics) -> None:
    """Add what watches the service."""

    @app.get("/health", response_model=Health, summary="Whether the service lives, and what it serves", tags=["state"])
    async def health() -> Response:
        """Answered without a token. The service listens only when it is ready."""
        known = service.student.manifest
        return JsonAnswer(
            {
                "status": "ok",
                "ready": True,
                "task": known.task,
                "study": known.study,
                "folder": str(folder.path),
                "folder_changed": folder.changed,
                "items": service.items,
                "scenes": len(service.scenes),
            }
        )

    @app.get("/metrics", response_class=Response, summary="Metrics for Prometheus", tags=["state"])
    async def read_metrics() -> Response:
        """Requests, latencies, batches of the encoder, scenes; in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page(app.openapi()))


def _add_texts(app: FastAPI, service: Service, workers: Workers) -> None:
    """Add what every student does with texts."""

    def vectors(body: EmbedRequest) -> Response:
        texts = as_texts(body.texts, service.student)
        service.limits.check_texts(texts)
        values = len(texts) * service.student.manifest.dimensions
        service.limits.check_values(values, "numbers: embed fewer texts at a time")
        return JsonAnswer({"vectors": service.student.embed(texts).tolist()})

    @app.post("/embed", response_model=Vectors, summary="Embed texts", tags=["texts"])
    async def embed(body: EmbedRequest) -> Response:
        """Return a vector of length 1 for each text."""
        return await workers.answer(vectors, body)


def _add_scenes(app: FastAPI, service: Service) -> None:
    """Add what is done with scenes, whatever they answer."""

    @app.get("/scenes", response_model=SceneList, summary="List the scenes", tags=["scenes"])
    async def scenes() -> Response:
        """Return the scenes that are kept, the one used last first."""
        return JsonAnswer({"scenes": service.scenes.listed(), "most": service.limits.scenes})

    @app.delete("/scenes/{name}", status_code=204, summary="Forget a scene", tags=["scenes"])
    async def remove(name: SceneName) -> None:
        """Forget a scene; its memory is free at once."""
        service.scenes.remove(name)
