"""Checks the texts and positions that a caller of serving gives, and brings texts into their one form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from storage.errors import InputError
from studies.text_form import normalise_text


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
