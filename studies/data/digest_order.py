"""A random order of names that stays when names are added."""

from __future__ import annotations

import hashlib

import numpy as np

from studies.data.dataset import Ints


def order_by_digest(names: tuple[str, ...], seed: int) -> Ints:
    """Return the positions of `names` in a random order that depends on each name and the seed alone.

    Unlike a shuffle, it keeps the order of the existing names when names are added.
    """
    digests = [hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in names]
    return np.array(sorted(range(len(names)), key=lambda i: digests[i]), dtype=np.int64)
