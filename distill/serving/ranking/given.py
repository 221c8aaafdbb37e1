"""Checks the texts and positions that a caller of serving gives, and brings texts into their one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import InputError, quoted
from studies.text_form import LONGEST, normalise_text


def check_texts(texts: Sequence[str], products: Sequence[int] | None) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the texts in their one form, and the (n,) products of each.

    Args:
        texts: Of items, each once.
        products: How many of the shop's products each text stands for; 1 each if left out.

    Raises:
        InputError: A text is blank or given twice, or products are not one positive number per text.
    """
    for position, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            kind = "blank" if isinstance(text, str) else "not a text"
            raise InputError(f"the text at position {position} is {text!r}, which is {kind}; leave such items out")
    normal = [normalise_text(text) for text in texts]
    if len(set(normal)) < len(normal):
        twice = next(text for text, count in Counter(normal).items() if count > 1)
        forms = " and ".join(repr(text) for text, form in zip(texts, normal, strict=True) if form == twice)
        raise InputError(
            f"candidates hold {twice!r} more than once ({forms}); give each text once: texts are what tells items apart"
        )
    if products is None:
        return normal, np.ones(len(texts), dtype=np.int64)
    if len(products) != len(texts) or min(products, default=1) < 1:
        raise InputError(
            f"products are {len(products)} numbers from {min(products, default=0)} on for {len(texts)} "
            "candidates; give one whole number of at least 1 for each"
        )
    return normal, np.asarray(products, dtype=np.int64)


def position_of(item: int | str, candidates: Sequence[str]) -> int:
    """Return the position among the candidates of a support interaction's item.

    Raises:
        InputError: It is none of them.
    """
    if isinstance(item, str):
        text = normalise_text(item)
        if text not in candidates:
            raise InputError(
                f"the support takes {item!r}, which is no candidate; give the text of one, or its position"
            )
        return candidates.index(text)
    if not 0 <= item < len(candidates):
        raise InputError(
            f"the support takes candidate {item}, but the {len(candidates)} candidates are numbered from 0 to "
            f"{len(candidates) - 1}; give a position among them"
        )
    return int(item)


def places_of(
    items: Sequence[int] | Sequence[str], place: Mapping[str, int], near: Callable[[str], str], what: str
) -> list[int]:
    """Return the position of each item among those of a catalogue or a scene.

    Args:
        items: By position, or by text.
        place: The position of each text.
        near: Returns the nearest known text of an unknown one, for an error.
        what: "catalogue" or "scene", for errors.

    Raises:
        InputError: It is one text instead of a list, or one of them is unknown.
    """
    _refuse_lone(items, "items")
    found = []
    for item in items:
        if not isinstance(item, str):
            position = int(item)
            if not 0 <= position < len(place):
                raise InputError(f"the {what} of {len(place)} items has no item {position}; positions count from 0")
        elif (known := place.get(text := normalise_text(item))) is not None:
            position = known
        elif text:
            raise InputError(
                f"the {what} has no {quoted(item)}; the nearest it has is {quoted(near(text))}: give one of its texts, "
                "or add the item to the catalogue first"
            )
        else:
            raise InputError(f"the {what} has no {item!r}, which is blank; give one of its texts")
        found.append(position)
    return found


def check_queries(queries: Sequence[str]) -> list[str]:
    """Return queries in their one form.

    Raises:
        InputError: It is one text instead of a list, or one of them is blank, too long or no text.
    """
    _refuse_lone(queries, "queries")
    for position, query in enumerate(queries):
        where = f"the query at position {position}"
        if not isinstance(query, str):
            raise InputError(f"{where} is {query!r}, which is not a text; give the words to search for")
        if not normalise_text(query):
            raise InputError(f"{where} is {query!r}, which is blank; give the words to search for")
        if len(query) > LONGEST:
            raise InputError(f"{where} has {len(query):,} characters, a text has at most {LONGEST:,}; shorten it")
    return [normalise_text(query) for query in queries]


def check_count(k: int) -> None:
    """Check the length of a list.

    Raises:
        InputError: It is below 1.
    """
    if k < 1:
        raise InputError(f"k = {k}: a list has at least 1 item; pass k of 1 or more")


def _refuse_lone(given: Sequence[int] | Sequence[str], what: str) -> None:
    if isinstance(given, str):
        raise InputError(f"{what} are a list, got the text {quoted(given)}; pass [{quoted(given)}]")
