"""A classifier's requests: scenes of labelled texts, or the classes that it was trained on; labels of texts."""

from __future__ import annotations

from functools import partial
from itertools import chain

from fastapi import FastAPI
from fastapi.responses import Response

from distill.inference import StudentClassifier, TextClassifier
from hpo.service.front.answers import JsonAnswer
from hpo.service.limits import EXPLAINED, Limits
from hpo.service.metrics import Metrics
from hpo.service.scenes import NEW, SceneName, Scenes
from hpo.service.tasks.bodies import ClassificationScene, ClassifiedTexts, ClassifyRequest, SceneFacts
from hpo.service.tasks.pairs import as_texts
from hpo.service.workers import Workers
from hpo.serving.classify import labelled_texts


class ClassificationService:
    """Adapts to classes and classifies; several threads may use it.

    Args:
        student: What adapts, or knows its classes.
        limits: Of requests.
        metrics: Of the service.
    """

    items = 0

    def __init__(self, student: StudentClassifier, limits: Limits, metrics: Metrics) -> None:
        self.student, self.limits = student, limits
        self.scenes: Scenes[TextClassifier] = Scenes(limits, metrics.scene)
        self._trained = student.trained() if student.manifest.labels else None
        self.adapts = not student.manifest.form.knows_classes

    @property
    def knows(self) -> bool:
        """Whether the student was trained on classes that it knows."""
        return self._trained is not None

    def adapt(self, name: str, body: ClassificationScene) -> JsonAnswer:
        """Adapt to labelled texts and keep the classifier."""
        texts = as_texts([each.text for each in body.labelled], self.student)
        labels = [each.label for each in body.labelled]
        self.limits.check_texts(chain(texts, labels), 2 * self.limits.texts)
        classifier = self.student.adapt(list(zip(texts, labels, strict=True)))
        facts = {"support": len(texts), "labels": list(classifier.labels)}
        return self.scenes.put(name, classifier, len(texts) + len(classifier.labels), facts)

    def classify(self, name: str | None, body: ClassifyRequest) -> JsonAnswer:
        """Return the labels of some texts, among those of a scene, or of the training where there is no name."""
        classifier = self.scenes.get(name) if name is not None else self._trained
        assert classifier is not None
        texts = as_texts(body.texts, self.student)
        self.limits.check_texts(texts)
        each = (len(classifier.labels) if body.probabilities else 1) + (EXPLAINED if body.explain else 0)
        self.limits.check_values(len(texts) * each, "values: classify fewer texts at a time")
        found = labelled_texts(classifier, texts, every=body.probabilities, explain=body.explain)
        return JsonAnswer({"texts": [row.to_json() for row in found]})


def add_routes(app: FastAPI, service: ClassificationService, workers: Workers) -> None:
    """Add what a classifier answers to an application."""
    if service.knows:

        @app.post("/classify", response_model=ClassifiedTexts, summary="Classify among the known classes")
        async def classify_known(body: ClassifyRequest) -> Response:
            """Return the label of each text, among the classes that the student was trained on."""
            return await workers.answer(partial(service.classify, None), body)

    if not service.adapts:
        return

    @app.put("/scenes/{name}", response_model=SceneFacts, responses=NEW, summary="Adapt to classes", tags=["scenes"])
    async def adapt(name: SceneName, body: ClassificationScene) -> Response:
        """Adapt to the classes of some labelled texts, in the place of an older scene of the same name."""
        return await workers.answer(partial(service.adapt, name), body)

    @app.post("/scenes/{name}/classify", response_model=ClassifiedTexts, summary="Classify texts", tags=["scenes"])
    async def classify(name: SceneName, body: ClassifyRequest) -> Response:
        """Return the label of each text, among the classes of a scene."""
        return await workers.answer(partial(service.classify, name), body)
