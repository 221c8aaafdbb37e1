"""A recommender's requests for nearest items: of items, of queries, of users' profiles."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain

from fastapi import FastAPI
from fastapi.responses import Response

from distill.inference import Catalogue, Scene
from hpo.service.front.answers import JsonAnswer
from hpo.service.tasks.bodies import FindRequest, NearestLists, ProfileRequest, SimilarRequest
from hpo.service.tasks.ranking import RankingService
from hpo.service.workers import Workers
from hpo.serving.nearest import Nearest


def _check(service: RankingService, texts: Iterable[str], asked: int, each: int, items: int) -> None:
    """Refuse texts that are too many or too long, and answers that are.

    Args:
        service: Has the limits.
        texts: Of the request.
        asked: How many items, queries or users it asks about.
        each: How many values the answer holds of each.
        items: How many items are compared with it.
    """
    service.limits.check_texts(texts)
    service.limits.check_pairs(asked, items, "to compare: ask for fewer at a time")
    service.limits.check_values(asked * each, "values: ask for fewer at a time, or a smaller k")


def _answer(found: Iterable[Nearest]) -> Response:
    return JsonAnswer({"lists": [each.to_json() for each in found]})


def add_routes(app: FastAPI, service: RankingService, workers: Workers) -> None:
    """Add the requests to an application."""

    def place(scene: str | None) -> tuple[Catalogue | Scene, int]:
        if scene is None:
            return service.catalogue, len(service.catalogue)
        found = service.scenes.get(scene)
        return found, len(found.candidates)

    def similar(body: SimilarRequest) -> Response:
        where, count = place(body.scene)
        _check(service, body.items, len(body.items), min(body.k, count), count)
        return _answer(map(partial(Nearest, "item"), body.items, where.similar(body.items, body.k)))

    def find(body: FindRequest) -> Response:
        catalogue, count = service.catalogue, len(service.catalogue)
        _check(service, body.queries, len(body.queries), min(body.k, count), count)
        return _answer(map(partial(Nearest, "query"), body.queries, catalogue.find(body.queries, body.k)))

    def profile(body: ProfileRequest) -> Response:
        where, count = place(body.scene)
        texts = chain.from_iterable(user.history for user in body.users)
        each = min(body.k, count) + service.student.manifest.dimensions
        _check(service, texts, len(body.users), each, count)
        rows = zip(body.users, where.profiles([user.history for user in body.users], body.k), strict=True)
        return _answer(Nearest("user", user.user, found.nearest, found.vector) for user, found in rows)

    @app.post("/similar", response_model=NearestLists, summary="Find items like others", tags=["catalogue"])
    async def similar_items(body: SimilarRequest) -> Response:
        """Return the other items that are nearest to each item."""
        return await workers.answer(similar, body)

    @app.post("/find", response_model=NearestLists, summary="Find items by words", tags=["catalogue"])
    async def find_items(body: FindRequest) -> Response:
        """Return the items that are nearest to each query."""
        return await workers.answer(find, body)

    @app.post("/profile", response_model=NearestLists, summary="Make profiles of users", tags=["catalogue"])
    async def profile_users(body: ProfileRequest) -> Response:
        """Return the direction that the student makes of each user's history, and the items nearest to it."""
        return await workers.answer(profile, body)
