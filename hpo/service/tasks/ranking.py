"""A recommender's requests: a catalogue that grows, scenes adapted from it, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from threading import Lock

from fastapi import FastAPI
from fastapi.responses import Response

from distill.inference import Catalogue, Popularity, Scene, StudentRecommender
from hpo.service.front.answers import JsonAnswer
from hpo.service.limits import EXPLAINED, Limits
from hpo.service.metrics import Metrics
from hpo.service.refusals import Refusal
from hpo.service.scenes import NEW, SceneName, Scenes
from hpo.service.tasks.bodies import Added, Items, RankedLists, RankingScene, RankRequest, SceneFacts
from hpo.service.workers import Workers
from hpo.serving.recommend import User, ranked
from storage.errors import InputError, quoted
from studies.text_form import normalise_text


class RankingService:
    """Adapts to scenes and ranks their items; several threads may use it.

    Args:
        student: What adapts.
        limits: Of requests.
        metrics: Of the service.
        catalogue: What scenes are adapted from; None until there are items.
        popularity: What was taken in other scenes; as of the export if left out.
    """

    adapts = True

    def __init__(
        self,
        student: StudentRecommender,
        limits: Limits,
        metrics: Metrics,
        catalogue: Catalogue | None = None,
        popularity: Popularity | None = None,
    ) -> None:
        self.student, self.limits, self._popularity = student, limits, popularity
        self.scenes: Scenes[Scene] = Scenes(limits, metrics.scene)
        self._catalogue, self._adding = catalogue, Lock()

    @property
    def items(self) -> int:
        """How many items the catalogue has."""
        return 0 if self._catalogue is None else len(self._catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """What scenes are adapted from.

        Raises:
            Refusal: There are no items yet.
        """
        if self._catalogue is None:
            raise Refusal(
                422,
                "no catalogue",
                "the service has no catalogue yet: add items with POST /catalogue, start it with --catalogue FILE, or "
                "give a scene its own items as catalogue",
            )
        return self._catalogue

    def add(self, items: Items) -> JsonAnswer:
        """Add the items that are new to the catalogue; scenes that were adapted before stay as they are."""
        self.limits.check_texts(items.texts, self.limits.items)
        with self._adding:
            before = self.items
            if before + len(items.texts) > self.limits.items:
                known = set() if self._catalogue is None else set(self._catalogue.texts)
                self.limits.check_items(before + len({normalise_text(text) for text in items.texts} - known))
            if self._catalogue is None:
                self._catalogue = self._embedded(items)
            else:
                self._catalogue.add(items.texts, items.products)
            return JsonAnswer({"added": self.items - before, "items": self.items})

    def adapt(self, name: str, body: RankingScene) -> JsonAnswer:
        """Adapt to a scene and keep it."""
        support, longest = body.support, self.student.longest_history
        self.limits.check_texts(chain.from_iterable((*each.history, each.item) for each in support))
        catalogue = self._catalogue_of(body)
        count = len(catalogue) if body.candidates is None else len(body.candidates)
        read = len(support) + sum(min(len(each.history), longest) for each in support)
        self.limits.check_pairs(read, max(count, 1), "texts in its support: give fewer, or shorter histories")
        texts = catalogue.texts
        place = {text: position for position, text in enumerate(texts)}
        chosen = None
        if body.candidates is not None:
            chosen = _positions(body.candidates, place, catalogue, "the catalogue")
            place = {texts[row]: position for position, row in enumerate(chosen)}
        taken = _positions([each.item for each in support], place, catalogue, "the scene")
        scene = catalogue.adapt([(each.history, at) for each, at in zip(support, taken, strict=True)], chosen)
        return self.scenes.put(name, scene, count, {"support": len(support), "candidates": count})

    def rank(self, name: str, body: RankRequest) -> JsonAnswer:
        """Return the lists of some users."""
        self.limits.check_texts(chain.from_iterable(user.history for user in body.users))
        scene = self.scenes.get(name)
        self.limits.check_pairs(len(body.users), len(scene.candidates), "users: rank fewer at a time")
        k = min(body.k, len(scene.candidates))
        each = k * (EXPLAINED if body.explain else 1)
        self.limits.check_values(len(body.users) * each, "items: rank fewer users at a time, or a smaller k")
        users = [User(user.user, user.history) for user in body.users]
        return JsonAnswer({"lists": [entry.to_json() for entry in ranked(scene, users, k, explain=body.explain)]})

    def _catalogue_of(self, body: RankingScene) -> Catalogue:
        """Return what a scene is adapted from."""
        if body.catalogue is not None:
            if body.candidates is not None:
                raise InputError("a scene has candidates of the catalogue or a catalogue of its own: leave one out")
            self.limits.check_texts(body.catalogue.texts, self.limits.items)
            return self._embedded(body.catalogue)
        return self.catalogue

    def _embedded(self, items: Items) -> Catalogue:
        return self.student.catalogue(items.texts, items.products, popularity=self._popularity)


def _positions(items: Sequence[str], place: Mapping[str, int], catalogue: Catalogue, where: str) -> list[int]:
    """Return the position of each item; of an unknown one, say which item of the catalogue is nearest."""
    found = []
    for item in items:
        if not (text := normalise_text(item)):
            raise InputError(f"an item of {where} is {item!r}, which is blank; give its text")
        if (position := place.get(text)) is None:
            near = catalogue.find([text], 1)[0][0].item
            words = f"{where} has no item {quoted(item)}; the nearest in the catalogue is {quoted(near)}"
            raise Refusal(422, "unknown item", words)
        found.append(position)
    return found


def add_routes(app: FastAPI, service: RankingService, workers: Workers) -> None:
    """Add what a recommender answers to an application."""

    @app.post("/catalogue", response_model=Added, summary="Add items", tags=["catalogue"])
    async def add_items(body: Items) -> Response:
        """Embed new items; known ones stay as they are. Adapt to a scene again to have new items in its lists."""
        return await workers.answer(service.add, body)

    @app.put("/scenes/{name}", response_model=SceneFacts, responses=NEW, summary="Adapt to a scene", tags=["scenes"])
    async def adapt(name: SceneName, body: RankingScene) -> Response:
        """Adapt to a scene's first interactions, in the place of an older scene of the same name."""
        return await workers.answer(partial(service.adapt, name), body)

    @app.post("/scenes/{name}/rank", response_model=RankedLists, summary="Rank items for users", tags=["scenes"])
    async def rank(name: SceneName, body: RankRequest) -> Response:
        """Return the best items of a scene for each user."""
        return await workers.answer(partial(service.rank, name), body)
