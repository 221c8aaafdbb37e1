"""What users took, as a caller gives it: checked, cut to what the student reads, and turned into vectors and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from storage.errors import InputError
from studies.text_form import normalise_text

History = Sequence[str]
# Returns the (n, D) vectors of texts.
Lookup = Callable[[Sequence[str]], Tensor]


class Vectors:
    """The vectors of all texts that some histories hold, each looked up once.

    Args:
        histories: What `shorten` returned.
        lookup: Returns the vectors.
    """

    def __init__(self, histories: Sequence[History], lookup: Lookup) -> None:
        texts = dict.fromkeys(text for history in histories for text in history)
        self._row = {text: row for row, text in enumerate(texts)}
        self._vectors = lookup(list(texts))

    def count(self, histories: Sequence[History]) -> tuple[Tensor, Tensor]:
        """Return the (H, D) vectors of the distinct texts of some histories, and the (R, H) counts of each."""
        rows = dict.fromkeys(self._row[text] for history in histories for text in history)
        place = {row: number for number, row in enumerate(rows)}
        counts = np.zeros((len(histories), len(rows)), dtype=np.float32)
        for user, history in enumerate(histories):
            for text in history:
                counts[user, place[self._row[text]]] += 1
        vectors = self._vectors if len(rows) == len(self._row) else self._vectors[list(rows)]
        return vectors, torch.from_numpy(counts).to(vectors.device)


def shorten(histories: Sequence[History], longest: int) -> list[History]:
    """Return the last items of each history, each text in its one form.

    Raises:
        InputError: A history is one text instead of a list, or holds something else than texts.
    """
    if isinstance(lone := next((history for history in histories if isinstance(history, str)), None), str):
        raise InputError(f"a history is a list of texts, got the text {lone!r}; pass [{lone!r}]")
    cut = [history[-longest:] for history in histories]
    for item in chain.from_iterable(cut):
        if not isinstance(item, str):
            raise InputError(f"a history holds {item!r}, which is not a text; give the texts of the user's items")
    return [[normalise_text(text) for text in history] for history in cut]
