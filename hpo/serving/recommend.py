"""Recommends from files: a catalogue, a scene's first interactions, and the histories of users.

`hpo recommend` prints what `recommend` returns. All files are read and checked before the student is opened.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from hpo.serving.text_files import read_lines, read_rows, read_texts
from hpo.status.console import Console, plain
from storage.errors import InputError
from studies.progress import Progress
from studies.text_form import normalise_text

# torch is imported with the student, after the files were checked.
if TYPE_CHECKING:
    from distill.serving.backends import Backend
    from distill.serving.ranking.scene import Reason, Scene

PRODUCTS, TIME = "products", "time"
# What the terminal shows of why an item has its score; JSON has everything.
MOST_REASONS, MOST_ITEMS = 3, 2


@dataclass(frozen=True)
class Listing:
    """A catalogue as a file lists it.

    Attributes:
        texts: Each once; rows with the same text are one item.
        products: How many products each text stands for: its rows, or the sum of the column `products`.
    """

    texts: list[str]
    products: list[int]

    def nearest(self, text: str) -> str:
        """Return the text whose letters are nearest to an unknown one's."""
        return difflib.get_close_matches(text, self.texts, n=1, cutoff=0)[0]


@dataclass(frozen=True)
class Interaction:
    """An interaction of a support: a user's history before it, and the item."""

    history: list[str]
    item: str


@dataclass(frozen=True)
class User:
    """A user, by any name or number, and their history."""

    user: str | int | None
    history: list[str]


@dataclass(frozen=True)
class RankedList:
    """A user's list.

    Attributes:
        user: As the file of histories names the user.
        items: Texts, best first.
        scores: Of the items.
        reasons: Why each item has its score, where that was asked for.
    """

    user: str | int | None
    items: list[str]
    scores: list[float]
    reasons: list[list[Reason]] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the values of a line of JSON."""
        found: dict[str, object] = {"user": self.user, "items": self.items, "scores": self.scores}
        if not self.reasons:
            return found
        return found | {"reasons": [[reason._asdict() for reason in reasons] for reasons in self.reasons]}


def recommend(
    folder: Path,
    catalogue: Path,
    support: Path,
    histories: Path,
    *,
    text: str = "text",
    k: int = 10,
    backend: Backend = "torch",
    taken: Path | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> list[RankedList]:
    """Return the best items of a catalogue for each user, after adapting to a support.

    Args:
        folder: An export.
        catalogue: File of `read_catalogue`; all of it is ranked.
        support: File of `read_support`.
        histories: File of `read_histories`.
        text: The catalogue's column of texts.
        k: Length of the lists.
        backend: What runs the encoder.
        taken: File of `read_taken`: what was taken in other scenes; as of the export if left out.
        explain: Whether to say why each item has its score.
        progress: Called with (texts embedded, texts in all).

    Raises:
        InputError: A file cannot be read or a line of it cannot be used, an item is not in the catalogue, or the
            folder is no export.
    """
    listing = read_catalogue(catalogue, text)
    interactions, users = read_support(support, listing), read_histories(histories)
    interactions_elsewhere = None if taken is None else read_taken(taken, text)
    from distill.inference import Popularity, StudentRecommender

    popularity = None if interactions_elsewhere is None else Popularity.count(interactions_elsewhere)
    student = StudentRecommender.load(folder, backend)
    embedded = student.catalogue(listing.texts, listing.products, progress, popularity)
    scene = embedded.adapt([(each.history, each.item) for each in interactions])
    return ranked(scene, users, k, explain=explain)


def ranked(scene: Scene, users: Sequence[User], k: int, *, explain: bool = False) -> list[RankedList]:
    """Return the best items of a scene for each user.

    Args:
        scene: What the student adapted to.
        users: To rank for.
        k: Length of the lists.
        explain: Whether to say why each item has its score.

    Raises:
        InputError: See `distill.serving.ranking.scene.Scene.rank`.
    """
    ranking = scene.rank([user.history for user in users], k)
    lists = []
    for user, places, values in zip(users, ranking.items.tolist(), ranking.scores.tolist(), strict=True):
        # What a user took already has no finite score, where the study excludes it.
        kept = [(item, score) for item, score in zip(places, values, strict=True) if math.isfinite(score)]
        items, scores = [item for item, _ in kept], [score for _, score in kept]
        reasons = scene.explain(user.history, items) if explain and items else []
        lists.append(RankedList(user.user, [scene.candidates[item] for item in items], scores, reasons))
    return lists


def read_catalogue(path: Path, text: str = "text") -> Listing:
    """Read a table with a column of texts and, if it has one, of `products`; or one text a line.

    Raises:
        InputError: It cannot be read, has no such column, no rows, a row without text, or products that are not whole
            numbers of at least 1.
    """
    counted: dict[str, int] = {}
    for place, values in read_texts(path, "catalogue", text, [PRODUCTS] if text != PRODUCTS else []):
        products = values.get(PRODUCTS, "1") if text != PRODUCTS else "1"
        if not products.isdecimal() or int(products) < 1:
            raise InputError(f"{place} has products {products!r}; give a whole number of at least 1")
        item = normalise_text(values[text])
        counted[item] = counted.get(item, 0) + int(products)
    return Listing(list(counted), list(counted.values()))


def read_support(path: Path, listing: Listing) -> list[Interaction]:
    """Read JSON lines `{"history": [texts, oldest first], "item": text}` in order of time.

    Raises:
        InputError: It cannot be read, is empty, a line is something else, or an item is not in the catalogue.
    """
    known = set(listing.texts)
    interactions = []
    for place, entry in _entries(path):
        taken = entry.get("item")
        if not isinstance(taken, str):
            raise InputError(f'{place} has no "item"; {_form("item")}')
        item = normalise_text(taken)
        if item not in known:
            near = listing.nearest(item)
            raise InputError(f"{place} takes {taken!r}, which the catalogue lacks; the nearest it has is {near!r}")
        interactions.append(Interaction(_history(place, entry, "item"), item))
    if not interactions:
        raise InputError(f"the support {path} is empty; {_form('item')}, at least one")
    return interactions


def read_histories(path: Path) -> list[User]:
    """Read JSON lines `{"user": id, "history": [texts, oldest first]}`.

    Raises:
        InputError: It cannot be read, is empty, or a line is something else.
    """
    users = []
    for place, entry in _entries(path):
        user = entry.get("user")
        if user is not None and not isinstance(user, str | int):
            raise InputError(f'{place} has the "user" {json.dumps(user)}; {_form("user")}')
        users.append(User(user, _history(place, entry, "user")))
    if not users:
        raise InputError(f"{path} holds no users; {_form('user')}, at least one")
    return users


def read_taken(path: Path, text: str = "text") -> list[tuple[str, float]]:
    """Read a table of what was taken in other scenes, one interaction a row: its item's text, and `time`.

    Returns:
        The text of each interaction, and when it was in UTC seconds.

    Raises:
        InputError: It cannot be read, lacks a column, or a row has no text or no time.
    """
    import polars as pl

    from studies.data.files.times import Clock, tidy, to_seconds

    columns = [(text, "--text"), (TIME, "that name")]
    places, rows = zip(*read_rows(path, "log", columns), strict=True)
    seconds = to_seconds(tidy(pl.Series(TIME, [row[TIME] for row in rows])), Clock()).seconds
    for place, row, second in zip(places, rows, seconds, strict=True):
        if second is None:
            raise InputError(f"{place} has the time {row[TIME]!r}; give dates such as 2026-01-31, or seconds from 1970")
        if not row[text].strip():
            raise InputError(f"{place} has no text; take the row out, or describe its item")
    return [(row[text], float(second)) for row, second in zip(rows, seconds, strict=True)]


def _form(key: str) -> str:
    value = '"a text of the catalogue"' if key == "item" else '"a name or number"'
    return f'give lines of the form {{"{key}": {value}, "history": ["a text", "another"]}}'


def _history(place: str, entry: Mapping[str, object], key: str) -> list[str]:
    history = entry.get("history")
    if not isinstance(history, list) or not all(isinstance(text, str) and text.strip() for text in history):
        raise InputError(f'{place} has a "history" that is not a list of texts with something in them; {_form(key)}')
    return history


def _entries(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for place, line in read_lines(path):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place} is not JSON ({error}); give one JSON object a line") from error
        if not isinstance(entry, dict):
            raise InputError(f"{place} is not a JSON object; give one a line")
        yield place, entry


def print_lists(lists: Sequence[RankedList], console: Console) -> None:
    """Print each user's list as rows of a table."""
    table = Table("user", "rank", "item", "score", box=None)
    for entry in lists:
        name = "" if entry.user is None else str(entry.user)
        for rank, (item, score) in enumerate(zip(entry.items, entry.scores, strict=True), start=1):
            cells = [name if rank == 1 else "", str(rank), item, f"{score:.3f}"]
            table.add_row(*map(plain, cells))
            if entry.reasons:
                table.add_row("", "", plain(in_words(entry.reasons[rank - 1])), "")
    console.out.print(table)


def in_words(reasons: Sequence[Reason]) -> str:
    """Return the largest terms of a score, those that items brought with the largest of these."""
    said = []
    for reason in reasons[:MOST_REASONS]:
        brought = [f"{text} {part:+.2f}" for text, part in reason.items[:MOST_ITEMS] if abs(part) >= 0.005]
        said.append(f"{reason.name} {reason.value:+.2f}" + (f" ({', '.join(brought)})" if brought else ""))
    return "  because " + "; ".join(said)
