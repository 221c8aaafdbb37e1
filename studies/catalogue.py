"""What a scene's catalogue alone says about which of its items sell: no interaction, no other scene.

A product line with many variants sells; so does a text that many products share. Texts are cut into fields at ", ", as
sources write them where several columns make the text; a text without any is one field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from studies.data.dataset import Ints

# The columns of `terms`.
TERMS = ("products", "rarest word", "variants of the last field", "variants of any field")
SEPARATOR = ", "

Floats = npt.NDArray[np.float32]


def terms(texts: Sequence[str], products: Ints | None = None) -> Floats:
    """(C, F) what speaks for each item of a scene, one column for each of `TERMS`, natural logarithms all.

    - products: how many products of the shop share the text; zero where `products` is left out.
    - rarest word: the share of the scene's texts that hold the item's least common word.
    - variants of the last field: texts that differ from it in their last field alone, itself included.
    - variants of any field: the sum of the same over all fields.

    Args:
        texts: of the scene's items, each once.
        products: (C,) number of products that each text stands for.
    """
    words = [set(text.split()) or {""} for text in texts]
    frequency = Counter(word for own in words for word in own)
    without = [_without_one(text.split(SEPARATOR)) for text in texts]
    variants = Counter(rest for own in without for rest in set(own))
    columns = [
        np.zeros(len(texts)) if products is None else np.log(products),
        np.log([min(frequency[word] for word in own) / len(texts) for own in words]),
        np.log([variants[own[-1]] for own in without]),
        [float(np.log([variants[rest] for rest in own]).sum()) for own in without],
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _without_one(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """The text without its first field, without its second, and so on."""
    return [(*fields[:place], *fields[place + 1 :]) for place in range(len(fields))]


def weigh_fields(texts: Sequence[str]) -> Any:
    """(C, fields) sparse rows of length 1: which fields a text has, by how few of the scene's texts have them."""
    fields = [set(text.split(SEPARATOR)) for text in texts]
    columns = {field: number for number, field in enumerate(sorted(set().union(*fields)))}
    rows = np.repeat(np.arange(len(texts)), [len(own) for own in fields])
    places = np.array([columns[field] for own in fields for field in sorted(own)])
    held = sp.csr_matrix((np.ones(len(places)), (rows, places)), shape=(len(texts), len(columns)))
    weighted = held @ sp.diags(np.log((len(texts) + 1) / held.getnnz(axis=0)))
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.maximum(length, 1e-12)) @ weighted)
