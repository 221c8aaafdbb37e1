"""A few answers of an exported student with what brought them, as they are stored and reported.

Loads nothing heavy, for those who only show them. Texts are cut: a table has room for their beginnings.
"""

from __future__ import annotations

from studies.escaping import visible
from studies.evaluation.figures import Figures
from studies.text_form import PAIR

# Scenes, or episodes, of which an answer is explained; items of a list; texts to classify of one episode.
EPISODES, LIST, TEXTS = 3, 5, 4
# Texts that are named for a term, or as neighbours; what two texts share.
PARTS, SHARED = 3, 5
LONGEST = 200


class ExplainedPart(Figures):
    """What one text of the support or the history has of a term.

    Attributes:
        text: The text.
        value: Its part of the term's value.
        shared: Words that it shares with the item, the rarest first, or fields; of terms that compare these.
    """

    text: str
    value: float
    shared: tuple[str, ...] = ()


class ExplainedTerm(Figures):
    """A term of a score, of `studies.model.explanation`.

    Attributes:
        name: What it is.
        value: What it adds to the score.
        parts: The texts that have most of it; none where no text brought it.
    """

    name: str
    value: float
    parts: tuple[ExplainedPart, ...]


class ExplainedItem(Figures):
    """An item of a list.

    Attributes:
        text: The item.
        score: Its score.
        taken: Whether the user took it afterwards.
        terms: All terms of the score, which is their sum; the largest first.
    """

    text: str
    score: float
    taken: bool
    terms: tuple[ExplainedTerm, ...]


class ExplainedList(Figures):
    """The top of a user's list in a scene of the test.

    Attributes:
        scene: The scene's name.
        candidates: How many items were ranked.
        support: The texts of the support's items, in order of time.
        history: The texts that the student reads of the user's history, repeats included.
        taken: How many candidates the user took afterwards.
        items: The best ones, best first.
    """

    scene: str
    candidates: int
    support: tuple[str, ...]
    history: tuple[str, ...]
    taken: int
    items: tuple[ExplainedItem, ...]


class LabelledNeighbour(Figures):
    """A labelled text that is near a text, by the cosine of their vectors."""

    text: str
    label: str
    similarity: float


class ExplainedText(Figures):
    """A text that was classified.

    Attributes:
        text: The text.
        label: The predicted label.
        probability: Of that label.
        right: The right label.
        nearest: The labelled texts that are nearest to it, the nearest first.
    """

    text: str
    label: str
    probability: float
    right: str
    nearest: tuple[LabelledNeighbour, ...]


class ExplainedEpisode(Figures):
    """Some texts of an episode of the test.

    Attributes:
        name: Of its scene: the episode itself where there are none.
        classes: How many there are to choose from.
        labelled: How many labelled texts the student adapted to.
        texts: Some of its queries.
    """

    name: str
    classes: int
    labelled: int
    texts: tuple[ExplainedText, ...]


class Explanations(Figures):
    """Answers of a study's student; none where nothing says why, as of a student that adapts to nothing."""

    lists: tuple[ExplainedList, ...] = ()
    episodes: tuple[ExplainedEpisode, ...] = ()


def cut(text: str) -> str:
    """Return the beginning of a text, both texts of a pair in one, without what a database does not hold."""
    text = visible(text.replace(PAIR, "|"))
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + "…"
