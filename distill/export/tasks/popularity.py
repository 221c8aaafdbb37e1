"""What was taken in other scenes, by text: counts that an export brings along, or fresh ones that a shop gives.

The numbers are those of `studies.episodes.elsewhere`: whole days, each interaction weighed by its age. Texts are known
by their digests, so that an export does not hold the shop's catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distill.export.tasks.registry import POPULARITY
from distill.serving.tensors import read_tensors
from storage.errors import InputError
from studies.episodes.elsewhere import HALF_LIVES, MOST_TAKEN, decay
from studies.episodes.split import DAY
from studies.text_form import normalise_text

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Popularity:
    """How often items were taken elsewhere, as of a day.

    Attributes:
        digests: (n,) of the items' texts, ascending.
        counts: (n, B) counts of each, one for each half-life.
    """

    digests: Ints
    counts: Floats

    @classmethod
    def of(cls, texts: Sequence[str], counts: npt.ArrayLike) -> Popularity:
        """Return the popularity of items, given the (n, B) counts of texts in their one form, each once."""
        digests = _digests(texts)
        order = np.argsort(digests)
        return cls(digests[order], np.asarray(counts, dtype=np.float32).reshape(-1, len(HALF_LIVES))[order])

    @classmethod
    def count(cls, interactions: Iterable[tuple[str, datetime | float]], as_of: date | None = None) -> Popularity:
        """Count interactions of any scenes.

        Args:
            interactions: The text of each item taken, and when: a time, without a zone in UTC, or UTC seconds.
            as_of: Days before it count, the day itself does not; the day after the last interaction if left out.
        """
        codes: dict[str, int] = {}
        taken = [(codes.setdefault(normalise_text(text), len(codes)), _day(time)) for text, time in interactions]
        items, days = np.array(taken, dtype=np.int64).reshape(-1, 2).T
        today = int(days.max(initial=0)) + 1 if as_of is None else _day(datetime.combine(as_of, datetime.min.time()))
        return cls.of(list(codes), total(items, today - days, len(codes)))

    def counts_of(self, texts: Sequence[str]) -> Floats:
        """Return (m, B) counts of some texts in their one form; zero of those that are not known."""
        found = np.zeros((len(texts), len(HALF_LIVES)), dtype=np.float32)
        if len(self.digests):
            asked = _digests(texts)
            place = np.minimum(np.searchsorted(self.digests, asked), len(self.digests) - 1)
            known = self.digests[place] == asked
            found[known] = self.counts[place[known]]
        return found


def total(items: Ints, ages: Ints, size: int) -> npt.NDArray[np.float64]:
    """Return (size, B) counts of items (n,) that were taken some days ago (n,)."""
    weights = decay(ages.astype(np.float64))
    return np.stack([np.bincount(items, column, minlength=size) for column in weights.T], axis=1)


def choose(own: Popularity | None, given: Popularity | None) -> Popularity | None:
    """Return what a caller gives, or else what is there already; None where the student does not read popularity.

    Raises:
        InputError: The student does not read it, and it is given.
    """
    if given is not None and own is None:
        raise InputError(
            "this student was trained on scenes that share no items and does not read what was taken in others: leave "
            "popularity out"
        )
    return given or own


def known_elsewhere(
    counts: Floats | None,
    support: Sequence[tuple[Sequence[str], int | str]],
    place: Mapping[str, int],
) -> tuple[Tensor, Tensor]:
    """Return the (C, B) counts of candidates elsewhere, and (K, C) how often each support user took them.

    Both without columns where the student does not read them.

    Args:
        counts: Of the candidates, in the order of their positions; None where the student does not read them.
        support: Its users' histories are read.
        place: Position of each candidate.
    """
    if counts is None:
        return torch.empty(len(place), 0), torch.empty(len(support), 0, dtype=torch.uint8)
    past = torch.zeros(len(support), len(place), dtype=torch.uint8)
    users, taken, times = count_taken([history for history, _ in support], place)
    past[users, taken] = times.to(torch.uint8)
    return torch.from_numpy(counts), past


def count_taken(histories: Sequence[Sequence[str]], place: Mapping[str, int]) -> Tensor:
    """Return the (3, n) numbers of users, positions of candidates that they took, and how often, each pair once.

    Args:
        histories: All that is known of each user.
        place: Position of each candidate.
    """
    found: Counter[tuple[int, int]] = Counter()
    for user, history in enumerate(histories):
        taken = (place.get(normalise_text(text)) for text in history if isinstance(text, str))
        found.update((user, position) for position in taken if position is not None)
    rows = [(user, position, min(times, MOST_TAKEN)) for (user, position), times in found.items()]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T


def read_popularity(folder: Path) -> Popularity:
    """Return the popularity that an export brings along.

    Raises:
        InputError: Its file cannot be read or holds no counts.
    """
    path, columns = folder / POPULARITY, len(HALF_LIVES)
    shapes: dict[str, tuple[int | None, ...]] = {"digests": (None,), "counts": (None, columns)}
    stored = read_tensors(path, shapes, {"digests": torch.int64, "counts": torch.float32})
    digests, counts = stored["digests"].numpy(), stored["counts"].numpy()
    if not (len(digests) == len(counts) and bool((np.diff(digests) > 0).all()) and bool((counts >= 0).all())):
        raise InputError(f"{path} holds no counts of items: export the study again")
    return Popularity(digests, counts)


def _day(time: datetime | float) -> int:
    if isinstance(time, datetime):
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return int(time // DAY)


def _digests(texts: Sequence[str]) -> Ints:
    joined = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype="<i8").astype(np.int64)
