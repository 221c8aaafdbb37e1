"""Finds nearest items from files: of items, of queries, and of users' profiles.

`hpo similar`, `hpo find` and `hpo profile` print what the functions of the same names return. All files are read and
checked before the student is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from hpo.serving.recommend import Listing, read_catalogue, read_histories, read_support
from hpo.serving.text_files import read_texts
from hpo.status.console import Console, plain
from storage.errors import InputError, quoted
from studies.progress import Progress
from studies.text_form import normalise_text

# torch is imported with the student, after the files were checked.
if TYPE_CHECKING:
    from distill.inference import Catalogue, NearItem, StudentRecommender
    from distill.serving.backends import Backend


@dataclass(frozen=True)
class Nearest:
    """The items that are nearest to something.

    Attributes:
        kind: What it is.
        of: The item's text, the query, or the user as the file of histories names them.
        nearest: The items, the nearest first; none for a user without a history.
        vector: The profile of a user; None of anything else.
    """

    kind: Literal["item", "query", "user"]
    of: str | int | None
    nearest: Sequence[NearItem]
    vector: Sequence[float] | None = None

    def to_json(self) -> dict[str, object]:
        """Return the values of a line of JSON."""
        vector = {} if self.vector is None else {"vector": self.vector}
        return {self.kind: self.of} | vector | {"nearest": [each._asdict() for each in self.nearest]}


def _open(
    folder: Path, listing: Listing, backend: Backend, progress: Progress | None
) -> tuple[StudentRecommender, Catalogue]:
    """Return the student of an export, and a catalogue with its items embedded."""
    from distill.inference import StudentRecommender

    student = StudentRecommender.load(folder, backend)
    return student, student.catalogue(listing.texts, listing.products, progress)


def similar(
    folder: Path,
    catalogue: Path,
    items: Sequence[str],
    *,
    items_file: Path | None = None,
    support: Path | None = None,
    text: str = "text",
    k: int = 10,
    backend: Backend = "torch",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Nearest]:
    """Return the other items of a catalogue that are nearest to each item.

    Args:
        folder: An export of a ranking study.
        catalogue: File of `hpo.serving.recommend.read_catalogue`.
        items: Texts of the catalogue.
        items_file: More of them: a table with a column of texts, or one text a line.
        support: File of `hpo.serving.recommend.read_support`: a scene to adapt to first.
        text: The column of texts in both tables.
        k: How many for each.
        backend: What runs the encoder.
        progress: Called with (texts embedded, texts in all).
        note: Takes remarks on what was found.

    Raises:
        InputError: A file cannot be read or a row of it cannot be used, there are no items, one is not in the
            catalogue, or the folder is no export.
    """
    listing = read_catalogue(catalogue, text)
    known = set(listing.texts)
    wanted = []
    for place, given in _texts(items, items_file, "item", text):
        item = normalise_text(given)
        if item not in known:
            near = listing.nearest(item)
            raise InputError(
                f"{place} is {quoted(item)}, which the catalogue lacks; the nearest it has is {quoted(near)}: give one "
                "of its texts, or look for any words with hpo find"
            )
        wanted.append(item)
    interactions = None if support is None else read_support(support, listing)
    student, embedded = _open(folder, listing, backend, progress)
    if interactions is None:
        found = embedded.similar(wanted, k)
    else:
        scene = embedded.adapt([(each.history, each.item) for each in interactions])
        found = scene.similar(wanted, k)
        if not scene.moves_vectors:
            name = student.learner.entry.name
            note(f"adapting moves no vectors of items in this student ({name}): the same as without --support")
    return [Nearest("item", item, near) for item, near in zip(wanted, found, strict=True)]


def find(
    folder: Path,
    catalogue: Path,
    queries: Sequence[str],
    *,
    queries_file: Path | None = None,
    text: str = "text",
    k: int = 10,
    backend: Backend = "torch",
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[Nearest]:
    """Return the items of a catalogue that are nearest to each query.

    Args:
        folder: An export of a ranking study.
        catalogue: File of `hpo.serving.recommend.read_catalogue`.
        queries: Any texts.
        queries_file: More of them: a table with a column of texts, or one text a line.
        text: The column of texts in both tables.
        k: How many for each.
        backend: What runs the encoder.
        progress: Called with (texts embedded, texts in all).
        note: Takes remarks on the queries.

    Raises:
        InputError: A file cannot be read or a row of it cannot be used, there are no queries, one is blank or too
            long, or the folder is no export.
    """
    listing = read_catalogue(catalogue, text)
    wanted = [query for _, query in _texts(queries, queries_file, "query", text)]
    student, embedded = _open(folder, listing, backend, progress)
    if (cut := student.count_cut(wanted)) > 0:
        most = student.manifest.max_tokens
        note(f"{cut:,} of {len(wanted):,} queries are longer than the {most} tokens that the student reads of a text")
    found = embedded.find(wanted, k)
    return [Nearest("query", query, near) for query, near in zip(wanted, found, strict=True)]


def profile(
    folder: Path,
    catalogue: Path,
    histories: Path,
    *,
    support: Path | None = None,
    text: str = "text",
    k: int = 10,
    backend: Backend = "torch",
    progress: Progress | None = None,
) -> list[Nearest]:
    """Return each user's profile, and the items of a catalogue that are nearest to it.

    Args:
        folder: An export of a ranking study.
        catalogue: File of `hpo.serving.recommend.read_catalogue`.
        histories: File of `hpo.serving.recommend.read_histories`.
        support: File of `hpo.serving.recommend.read_support`: a scene to adapt to first.
        text: The catalogue's column of texts.
        k: How many items for each user.
        backend: What runs the encoder.
        progress: Called with (texts embedded, texts in all).

    Raises:
        InputError: A file cannot be read or a line of it cannot be used, or the folder is no export.
    """
    listing, users = read_catalogue(catalogue, text), read_histories(histories)
    interactions = None if support is None else read_support(support, listing)
    _, embedded = _open(folder, listing, backend, progress)
    given = [user.history for user in users]
    if interactions is None:
        found = embedded.profiles(given, k)
    else:
        found = embedded.adapt([(each.history, each.item) for each in interactions]).profiles(given, k)
    return [Nearest("user", user.user, each.nearest, each.vector) for user, each in zip(users, found, strict=True)]


def _texts(given: Sequence[str], path: Path | None, kind: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each text, and the text: those of the command line, then those of a file."""
    many = {"item": "items", "query": "queries"}[kind]
    if not given and path is None:
        raise InputError(f"there are no {many}: write them behind the export, in quotes, or name a file with --{many}")
    for number, each in enumerate(given, start=1):
        if not each.strip():
            raise InputError(f"{kind} {number} is {each!r}, which is blank; write words between the quotes")
        yield f"{kind} {number}", each
    for place, values in read_texts(path, many, text) if path is not None else ():
        yield place, values[text]


def print_nearest(found: Sequence[Nearest], console: Console) -> None:
    """Print what is nearest to each as rows of a table."""
    table = Table(found[0].kind, "rank", "nearest", "similarity", box=None)
    for entry in found:
        name = "" if entry.of is None else str(entry.of)
        if not entry.nearest:
            table.add_row(plain(name), "", "nothing: no history" if entry.kind == "user" else "nothing", "")
        for rank, near in enumerate(entry.nearest, start=1):
            cells = [name if rank == 1 else "", str(rank), near.item, f"{near.similarity:.3f}"]
            table.add_row(*map(plain, cells))
    console.out.print(table)
