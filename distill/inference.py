"""Serves an export: embeds texts, adapts to a scene or to classes, ranks or classifies.

What a user of a student imports. `StudentRecommender` and `StudentClassifier` need the export folder alone;
`load_export` and `as_student` give its parts to `hpo evaluate`, which measures a folder as the study measured the
student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from distill.export.tasks.popularity import Popularity, read_popularity
from distill.serving.backends import Backend, Embed, Precision
from distill.serving.labelled import Labelled, check_labelled
from distill.serving.loader import ExportedStudent, as_student, load_export
from distill.serving.ranking.catalogue import Catalogue
from distill.serving.ranking.histories import History
from distill.serving.ranking.items import StudentParts
from distill.serving.ranking.lexicon_file import read_lexicon
from distill.serving.ranking.nearest import NearItem, Profile
from distill.serving.ranking.scene import Ranking, Scene
from distill.serving.served_student import ServedStudent
from distill.serving.text_classifier import TextClassifier
from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.learners.base import Learner
from studies.progress import Progress

__all__ = [
    "Catalogue",
    "ExportedStudent",
    "NearItem",
    "Popularity",
    "Profile",
    "Ranking",
    "Scene",
    "StudentClassifier",
    "StudentRecommender",
    "TextClassifier",
    "as_student",
    "load_export",
]


class StudentRecommender(ServedStudent):
    """A recommender that adapts to a new scene from a handful of interactions, served from an export folder.

    Everything runs on the GPU where there is one, and in fp32 unless `precision` is another, as the export's figures
    were measured. A history is a user's last items, oldest first; as in the study, at most the protocol's number of
    them is read. One student, its catalogues and scenes serve several threads at once.

    >>> student = StudentRecommender.load(folder)
    >>> catalogue = student.catalogue(["whole milk", "skim milk", "oat drink"])
    >>> scene = catalogue.adapt(support=[(["corn flakes"], "whole milk"), ([], 0), (["soy yoghurt"], "oat drink")])
    >>> ranking = scene.rank([["muesli", "corn flakes"], []], k=2)
    >>> ranking.items.shape
    torch.Size([2, 2])
    >>> scene.candidates[ranking.items[0, 0]] in catalogue.texts
    True
    >>> reasons = scene.explain(["muesli", "corn flakes"], ranking.items[0].tolist())
    >>> abs(sum(reason.value for reason in reasons[0]) - float(ranking.scores[0, 0])) < 1e-4
    True
    >>> catalogue.add(["rice drink"])  # embeds this one alone; the scene stays what it is
    >>> catalogue.adapt(support=[([], "rice drink")], candidates=[0, 2, 3]).rank([[]]).items.shape
    torch.Size([1, 3])
    """

    task = "ranking"

    def __init__(
        self,
        exported: ExportedStudent,
        backend: Backend = "torch",
        precision: Precision = "fp32",
        wrap: Callable[[Embed], Embed] | None = None,
    ) -> None:
        super().__init__(exported, backend, precision, wrap)
        protocol = exported.manifest.definition.protocol
        assert isinstance(protocol, RankingProtocol)
        self._parts = StudentParts(
            embed=self._embedder.embed,
            learner=exported.head_learner(),
            lexicon=read_lexicon(exported.folder),
            # Where every item of the shop is a candidate everywhere, training has read all of their texts.
            counted=protocol.candidates == "all",
            products=protocol.products,
            longest_history=protocol.history,
            popularity=read_popularity(exported.folder) if exported.manifest.elsewhere else None,
            excludes=protocol.repeat == "exclude",
        )

    @property
    def learner(self) -> Learner:
        """Adapts the head to a scene."""
        return self._parts.learner

    @property
    def longest_history(self) -> int:
        """How many of a user's last items are encoded."""
        return self._parts.longest_history

    def catalogue(
        self,
        texts: Sequence[str],
        products: Sequence[int] | None = None,
        progress: Progress | None = None,
        popularity: Popularity | None = None,
    ) -> Catalogue:
        """Embed a catalogue, once for all scenes that are adapted from it.

        Args:
            texts: Of the items, each once.
            products: How many of the shop's products each text stands for; 1 each if left out.
            progress: Called with (texts embedded, texts in all).
            popularity: What was taken in other scenes; as of the export if left out.

        Raises:
            InputError: There are no texts, a text is blank or given twice, products are not one positive number per
                text, or the student does not read popularity.
        """
        return Catalogue(self._parts, texts, products, progress, popularity)

    def adapt(
        self,
        candidates: Sequence[str],
        support: Sequence[tuple[History, int | str]],
        products: Sequence[int] | None = None,
        popularity: Popularity | None = None,
    ) -> Scene:
        """Adapt to a scene whose texts are needed only once; `Catalogue.adapt` does not embed them again.

        Args:
            candidates: Texts of the scene's items, each once.
            support: The scene's first interactions in order of time, each with the user's history before it and the
                taken item: its position among the candidates, or its text.
            products: How many of the shop's products each candidate's text stands for; 1 each if left out.
            popularity: What was taken in other scenes before it opened; as of the export if left out.

        Raises:
            InputError: See `catalogue` and `Catalogue.adapt`.
        """
        return self.catalogue(candidates, products, popularity=popularity).adapt(support)


class StudentClassifier(ServedStudent):
    """A classifier that adapts to new classes from a few labelled texts of each, served from an export folder.

    Everything runs on the GPU where there is one, and in fp32 unless `precision` is another, as the export's figures
    were measured. Texts are read in the one form that training reads them in. One student and what it adapted to serve
    several threads at once.

    >>> student = StudentClassifier.load(folder)
    >>> classifier = student.adapt([("whole milk", "dairy"), ("plain yoghurt", "dairy"), ("green tea", "drinks")])
    >>> classifier.labels
    ('dairy', 'drinks')
    >>> classifier.probabilities(["skim milk", "black tea", "skim milk"]).shape
    torch.Size([3, 2])
    >>> set(classifier.predict(["skim milk", "black tea"])) <= set(classifier.labels)
    True
    >>> student.adapt({"dairy": ["whole milk"], "drinks": ["green tea"], "bread": ["rye bread"]}).labels
    ('dairy', 'drinks', 'bread')
    """

    task = "classification"

    def __init__(
        self,
        exported: ExportedStudent,
        backend: Backend = "torch",
        precision: Precision = "fp32",
        wrap: Callable[[Embed], Embed] | None = None,
    ) -> None:
        super().__init__(exported, backend, precision, wrap)
        self._learner = exported.head_learner()

    def adapt(self, labelled: Labelled | Mapping[str, Sequence[str]]) -> TextClassifier:
        """Adapt to the classes of some labelled texts; classes may have different numbers of them.

        A student that was trained on scenes of known classes starts from what it knows of them: some may have no text.

        Args:
            labelled: (text, label) pairs, or the texts of each label. The same pair twice counts once.

        Raises:
            InputError: There are not at least two classes, or a class that the student does not know; a text or label
                is blank or no text, a text has two labels, or the student does not adapt.
        """
        if self.manifest.form.knows_classes:
            raise InputError(
                f"this student classifies among the {len(self.manifest.labels):,} classes that it was trained on and "
                "adapts to no others: use trained() instead of adapt(), or leave --support out"
            )
        return TextClassifier(self._embedder.embed, self._learner, check_labelled(labelled, self.manifest.labels))

    def trained(self) -> TextClassifier:
        """Return the classifier of the classes that the student was trained on: it needs no labelled texts.

        Raises:
            InputError: The student adapts to any classes, and knows none.
        """
        if not self.manifest.labels:
            raise InputError(
                "this student knows no classes of its own, it adapts to those of a few labelled texts: use adapt() "
                "instead of trained(), or give a --support"
            )
        return TextClassifier(self._embedder.embed, self._learner, {})
