"""A student as classifier of some classes: it gives any text a label and probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from distill.serving.backends import Embed
from storage.errors import InputError
from studies.classification.episode import LabelledEpisode
from studies.classification.learning.adapted import ClassifiesVectors
from studies.learners.base import Learner
from studies.model.device import device
from studies.progress import Progress
from studies.text_form import normalise_text

_DIVERGED = "the student gives no finite numbers: adapting its head diverged; export another student of the study"


class Neighbour(NamedTuple):
    """A labelled text that is near another text.

    Attributes:
        text: The labelled text.
        label: Its label.
        similarity: Cosine of their vectors.
    """

    text: str
    label: str
    similarity: float


class Explained(NamedTuple):
    """Texts that were classified, and why.

    Attributes:
        probabilities: (n, N) of the classes.
        nearest: The labelled texts that are nearest to each, the nearest first.
    """

    probabilities: Tensor
    nearest: list[list[Neighbour]]


class TextClassifier:
    """Classifies texts among the classes that a student has adapted to; `StudentClassifier` makes it.

    It is never changed: several threads may classify at once.

    Args:
        embed: Embeds texts.
        learner: Adapts the head over their vectors; it is read, never changed.
        labelled: Of `distill.serving.labelled.check_labelled`; where the student knows its classes, some may lack.

    Attributes:
        labels: The names of the classes, in the order in which they first appear.

    Raises:
        InputError: Adapting diverged.
    """

    def __init__(self, embed: Embed, learner: Learner, labelled: Mapping[str, str]) -> None:
        head = learner.model.head
        self.labels: tuple[str, ...] = head.labels or tuple(dict.fromkeys(labelled.values()))
        self._embed = embed
        # A name that is also a labelled text is embedded once.
        names = self.labels if learner.hyperparameters.reads_names else ()
        texts = list(dict.fromkeys([*labelled, *names]))
        classes, places = ({each: place for place, each in enumerate(listed)} for listed in (self.labels, texts))
        episode = _episode(
            [classes[label] for label in labelled.values()], [places[name] for name in names], len(classes)
        )
        vectors = embed(texts, None)
        self._labelled, self._vectors = labelled, vectors[: len(labelled)]
        try:
            self._adapted: ClassifiesVectors = learner.adapt(episode, vectors)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # documented there
            raise InputError(_DIVERGED) from error

    def predict(self, texts: Sequence[str], progress: Progress | None = None) -> list[str]:
        """Return the label of each text; arguments and errors as of `probabilities`."""
        return [self.labels[place] for place in self.probabilities(texts, progress).argmax(1).tolist()]

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return (n, N) probabilities of the classes, in the order of `labels`, on the device.

        Args:
            texts: The texts to classify; a repeated one is embedded once.
            progress: Called with (texts embedded, texts in all).

        Raises:
            InputError: `texts` is one text instead of a list, a text is blank or no text, or probabilities are not
                finite numbers.
        """
        return self._probabilities(*self._embedded(texts, progress))

    @torch.no_grad()
    def explain(self, texts: Sequence[str], k: int = 3, progress: Progress | None = None) -> Explained:
        """Return the probabilities of texts with the labelled texts that are nearest to each.

        Args:
            texts: The texts to classify; a repeated one is embedded once.
            k: How many labelled texts; fewer where there are fewer.
            progress: Called with (texts embedded, texts in all).

        Raises:
            InputError: As of `probabilities`; or the student adapted to no labelled texts.
        """
        if not self._labelled:
            raise InputError(
                "this classifier adapted to no labelled texts, so none can be nearest: give it some, or ask for no "
                "explanation"
            )
        vectors, rows = self._embedded(texts, progress)
        known, labels = list(self._labelled), list(self._labelled.values())
        ours, theirs = (functional.normalize(each, dim=1) for each in (vectors, self._vectors))
        best = (ours @ theirs.T).sort(dim=1, descending=True, stable=True)
        found = [
            [Neighbour(known[place], labels[place], cosine) for place, cosine in zip(places, cosines, strict=True)]
            for places, cosines in zip(best.indices[:, :k].tolist(), best.values[:, :k].tolist(), strict=True)
        ]
        return Explained(self._probabilities(vectors, rows), [found[row] for row in rows.tolist()])

    def _probabilities(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return the (n, N) probabilities of texts, whose vectors are at (n,) rows."""
        found = self._adapted.probabilities(vectors)
        # A NaN or an infinity anywhere makes the sum one.
        if not bool(found.sum().isfinite()):
            raise InputError(_DIVERGED)
        return found[rows]

    def _embedded(self, texts: Sequence[str], progress: Progress | None) -> tuple[Tensor, Tensor]:
        """Return the vectors of the distinct texts, and each text's (n,) row among them."""
        if isinstance(texts, str):
            raise InputError(f"texts are a list, got the text {texts!r}; pass [{texts!r}]")
        normal = [_checked(text, position) for position, text in enumerate(texts)]
        place = {text: row for row, text in enumerate(dict.fromkeys(normal))}
        vectors = self._embed(list(place), progress)
        return vectors, torch.tensor([place[text] for text in normal], dtype=torch.int64, device=vectors.device)


def _checked(text: str, position: int) -> str:
    """Return a text in its one form."""
    if not isinstance(text, str) or not (normal := normalise_text(text)):
        kind = "blank" if isinstance(text, str) else "not a text"
        raise InputError(f"the text at position {position} is {text!r}, which is {kind}; leave such texts out")
    return normal


def _episode(labels: Sequence[int], names: Sequence[int], classes: int) -> LabelledEpisode:
    """Return a support without queries as an episode.

    Args:
        labels: The class of each labelled text, in 0..N-1; these are the first items.
        names: The place of each class's name among the items; none where names are not read.
        classes: N.
    """
    here = device()
    order = torch.tensor(labels, dtype=torch.int64).argsort(stable=True)
    none = torch.empty(0, dtype=torch.int64, device=here)
    return LabelledEpisode(
        name="",
        classes=torch.arange(classes, device=here),
        items=torch.arange(max([len(labels) - 1, *names]) + 1, device=here),
        support=order.to(here),
        support_labels=torch.tensor(labels, dtype=torch.int64)[order].to(here),
        query=none,
        query_labels=none,
        names=torch.tensor(names, dtype=torch.int64, device=here),
    )
