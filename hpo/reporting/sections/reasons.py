"""The section on why: a few lists with the largest terms of each score, or a few texts with what is nearest to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from distill.export.tasks.explained import ExplainedEpisode, ExplainedItem, ExplainedList, ExplainedPart, ExplainedTerm
from hpo.reporting.blocks import Block, Cell, Row, Section, Table, Terms, Text, plural
from hpo.reporting.document import StudyDocument
from hpo.reporting.svg import shorten
from hpo.reporting.task_words import words_of

# Terms of a score in the table, texts of a term, words that these share with the item, and texts in one line.
TERMS, PARTS, SHARED, LISTED = 3, 2, 3, 8
# Columns of an item or a support's text, and of a text behind a term.
WIDE, NARROW = 60, 50
# A part that is shown as zero says nothing.
LEAST = 0.005
# What each term of a score says; of `studies.model.explanation`.
MEANINGS = {
    "history affinity": "the user's history goes with the item, by directions that training has learned",
    "history match": "the user's history has items that are like it",
    "support counts": "the support took this very item",
    "support neighbours": "the support took items that are near it by the student's vectors",
    "support words": "the support took items that share words with it; rare words count more",
    "support fields": "the support took items that share fields with it, the parts of a text between commas",
    "scene preference": "the direction that adapting to the support has learned",
    "adapted bias": "what adapting to the support has added to this item alone",
    "appeal": "what the item's text says by itself",
    "catalogue products": "how many products share the item's text",
    "catalogue rarest word": "how rare the rarest word of the item's text is",
    "catalogue variants of the last field": "how many items differ from it in the last field only",
    "catalogue variants of any field": "how many items differ from it in one field only",
    "text": "what the item's text says by itself",
    "popularity elsewhere": "how often the item was taken in other scenes",
    "own past": "how often the user took the item",
}


def reasons(document: StudyDocument) -> Section | None:
    """Return the section; None where no answers were explained."""
    if (found := document.explanations) is None:
        return None
    if found.lists:
        blocks = [_about_lists(len(found.lists)), *(block for each in found.lists for block in _list(each))]
        return Section("why", "Why an item is on the list", [*blocks, _legend(found.lists)])
    if found.episodes:
        intro = _about_texts(found.episodes, words_of(document.evaluation).scene)
        return Section("why", "Why a text has its label", [intro, *map(_episode, found.episodes)])
    return None


def _about_lists(scenes: int) -> Text:
    return Text(
        f"The first items of the student's list for one user in each of {plural(scenes, 'test scene')}. The scenes are "
        "spread evenly over all, the user is the first with a history, if any has one; whether a list is right played "
        "no part. A score is the sum of its terms. The largest are shown with their sign, behind each the texts of the "
        "support or of the history that brought most of it, in brackets the words or fields that these share with the "
        "item. A term that all items have alike does not order them. report.json has all terms."
    )


def _about_texts(episodes: Sequence[ExplainedEpisode], scene: str) -> Text:
    return Text(
        f"Some texts of {plural(len(episodes), f'test {scene}')}, spread evenly over all; whether the labels are right "
        "played no part. Behind each are the labelled texts that are nearest to it by the student's vectors, with "
        "their label and the cosine."
    )


def _list(found: ExplainedList) -> list[Block]:
    shown = sum(item.taken for item in found.items)
    facts = [
        ("scene", found.scene),
        ("support", _texts(found.support)),
        ("the user's history", _texts(found.history)),
        ("taken afterwards", f"{plural(found.taken, 'item')}, {shown} of them below"),
    ]
    rows: list[Row] = [
        [shorten(item.text, WIDE), Cell(f"{item.score:.3f}"), "yes" if item.taken else "no", _because(item)]
        for item in found.items
    ]
    caption = f"{found.scene}: the first {len(rows)} of {plural(found.candidates, 'item')}"
    return [Terms(facts), Table(caption, ["item", "score", "taken", "largest terms"], rows)]


def _because(item: ExplainedItem) -> str:
    """Return the largest terms of a score, and what all others add."""
    shown, others = item.terms[:TERMS], item.terms[TERMS:]
    said = [_in_words(term, item.text) for term in shown]
    if others:
        said.append(f"{plural(len(others), 'other')} {sum(term.value for term in others):+.2f}")
    return "; ".join(said)


def _in_words(term: ExplainedTerm, item: str) -> str:
    brought = [_part(part, item) for part in term.parts[:PARTS] if abs(part.value) >= LEAST]
    return f"{term.name} {term.value:+.2f}" + (f" ({', '.join(brought)})" if brought else "")


def _part(part: ExplainedPart, item: str) -> str:
    if part.text == item:
        return f"itself {part.value:+.2f}"
    shared = ", ".join(shorten(each, NARROW) for each in part.shared[:SHARED])
    return f"{shorten(part.text, NARROW)} {part.value:+.2f}" + (f" [{shared}]" if shared else "")


def _texts(texts: Iterable[str]) -> str:
    """Return texts on one line, equal ones as one."""
    counted = Counter(texts).most_common()
    said = [f"{shorten(text, WIDE)}{f' ×{times}' if times > 1 else ''}" for text, times in counted[:LISTED]]
    more = [f"{len(counted) - LISTED} more"] if len(counted) > LISTED else []
    return "; ".join([*said, *more]) or "none"


def _legend(lists: Sequence[ExplainedList]) -> Terms:
    """Return what the terms mean that are shown, in a fixed order."""
    shown = {term.name for found in lists for item in found.items for term in item.terms[:TERMS]}
    return Terms([(name, meaning) for name, meaning in MEANINGS.items() if name in shown])


def _episode(found: ExplainedEpisode) -> Table:
    rows: list[Row] = []
    for each in found.texts:
        nearest = [f"{shorten(n.text, NARROW)} ({shorten(n.label, NARROW)}, {n.similarity:.2f})" for n in each.nearest]
        label, right = (shorten(name, NARROW) for name in (each.label, each.right))
        rows.append([shorten(each.text, WIDE), label, Cell(f"{each.probability:.2f}"), right, "; ".join(nearest)])
    caption = f"{found.name}: {found.classes:,} classes, {plural(found.labelled, 'labelled text')} to adapt to"
    return Table(caption, ["text", "label", "probability", "right label", "nearest labelled texts"], rows)
