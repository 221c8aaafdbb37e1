"""Writes relevance judgements and rankings in the TREC formats, so that other evaluators can check the metrics.

    qrels.txt       query 0 docno relevance       one line per relevant item
    <system>.run    query Q0 docno rank score tag one line per candidate that is ranked, best first
    items.tsv       docno, the shop's id, text    one line per candidate, separated by tabs

A query is `scene:opening:user`: the scene's name percent-encoded, the opening in epoch seconds, the user's code. A
docno is `i` and the item's code. A candidate that is excluded for a query has no line there.

The score of a line is the number of candidates − rank + 1, not the system's own. Evaluators differ in how they break
ties; with strictly decreasing scores all of them read the order that was measured here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import add
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import torch
from torch import Tensor

from storage.errors import InputError
from storage.files.atomic import atomic_folder
from storage.files.outputs import check_place
from studies.data.dataset import Dataset
from studies.episodes.episode import Episode


@contextmanager
def dump(folder: Path, data: Dataset, episodes: Sequence[Episode]) -> Iterator[TrecDump]:
    """Open a dump of rankings; `folder` is created atomically when the block ends without an exception.

    >>> with dump(folder, data, episodes) as writer:
    ...     evaluate(student, episodes, data.scenes, k, dump=writer.run("student"))

    Args:
        folder: Folder to create; it must not exist.
        data: The shop, for the names of scenes and items.
        episodes: The episodes that every run must rank, once each.

    Raises:
        InputError: `folder` exists, or two episodes would have the same queries.
        ValueError: At the end of the block, a run has not ranked every episode.
    """
    with atomic_folder(folder) as draft, ExitStack() as files:
        writer = TrecDump(draft, data, episodes, files)
        yield writer
        writer.check()


def check_dump(folder: Path) -> None:
    """Check before the work that a dump can be written at its end.

    Raises:
        InputError: The folder exists, or cannot be written.
    """
    if os.path.lexists(folder):
        raise InputError(f"the folder {folder} for the rankings exists already; name another with --trec, or remove it")
    check_place(folder, "name another with --trec")


class TrecDump:
    """An open dump: writes judgements and items at once, and each system's rankings episode by episode."""

    def __init__(self, folder: Path, data: Dataset, episodes: Sequence[Episode], files: ExitStack) -> None:
        self._folder, self._scenes, self._files = folder, data.scenes, files
        self._openings = {(episode.scene, episode.opened) for episode in episodes}
        if len(self._openings) < len(episodes):
            raise InputError(
                "a scene opens twice in the same second, so its queries cannot be told apart; ask for fewer openings"
            )
        self._runs: dict[str, Run] = {}
        with _create(folder / "qrels.txt") as file:
            for episode in episodes:
                file.write(_judgements(episode, queries(episode, data.scenes)))
        with _create(folder / "items.tsv") as file:
            for item in torch.unique(torch.cat([e.items[: e.candidates] for e in episodes])).tolist():
                file.write(f"i{item}\t{_one_line(data.item_ids[item])}\t{_one_line(data.texts[item])}\n")

    def run(self, system: str) -> Run:
        """Return the run of one system, to pass to `evaluate`.

        Raises:
            InputError: The name gives no file name, or that of another run of this dump.
        """
        tag = re.sub(r"[^A-Za-z0-9.-]+", "_", system).strip("_.-")
        # Some file systems do not tell upper case from lower case.
        if not tag or tag.casefold() in self._runs:
            raise InputError(
                f"the system {system!r} would be written to {tag + '.run'!r}, "
                + ("as another one is: rename it" if tag else "which is not a name: use letters or digits")
            )
        file = self._files.enter_context(_create(self._folder / f"{tag}.run"))
        run = self._runs[tag.casefold()] = Run(file, tag, self._scenes, self._openings)
        return run

    def check(self) -> None:
        """Raise ValueError if a run has not ranked every episode."""
        for run in self._runs.values():
            if run.missing:
                raise ValueError(f"the run {run.tag!r} lacks {len(run.missing)} of the dump's episodes")


class Run:
    """One system's rankings, written episode by episode.

    Attributes:
        tag: Name of the run.
        missing: (scene code, opening) of the episodes that are not yet ranked.
    """

    def __init__(self, file: TextIO, tag: str, scenes: Sequence[str], openings: set[tuple[int, int]]) -> None:
        self.tag, self.missing = tag, set(openings)
        self._file, self._scenes = file, scenes

    def __call__(self, episode: Episode, order: Tensor) -> None:
        """Write the rankings of an episode.

        Args:
            episode: The ranked episode.
            order: (Q, C) ranking, best first, the excluded candidates last.

        Raises:
            KeyError: The episode is not one of the dump's, or was written before.
        """
        self.missing.remove((episode.scene, episode.opened))
        documents = [f" Q0 {docno}" for docno in docnos(episode)]
        ends = [f" {rank} {episode.candidates - rank + 1} {self.tag}\n" for rank in range(1, episode.candidates + 1)]
        ranked = (~episode.excluded).sum(1).tolist()
        for query, row, length in zip(queries(episode, self._scenes), order.tolist(), ranked, strict=True):
            # A run has millions of lines: all that repeats is formatted above, and a line is only joined.
            lines = map(add, map(documents.__getitem__, row[:length]), ends)
            self._file.write(query + query.join(lines))


def queries(episode: Episode, scenes: Sequence[str]) -> list[str]:
    """Return the (Q,) ids of an episode's queries, without white space."""
    return [f"{quote(scenes[episode.scene], safe='')}:{episode.opened}:{user}" for user in episode.users.tolist()]


def docnos(episode: Episode) -> list[str]:
    """Return the (C,) ids of an episode's candidates."""
    return [f"i{item}" for item in episode.items[: episode.candidates].tolist()]


def _judgements(episode: Episode, ids: Sequence[str]) -> str:
    documents = docnos(episode)
    pairs = episode.relevant.nonzero().tolist()
    return "".join(f"{ids[query]} 0 {documents[candidate]} 1\n" for query, candidate in pairs)


def _create(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())
