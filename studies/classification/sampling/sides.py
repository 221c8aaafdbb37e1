"""Divides the groups of a class between support and query, so that each side has enough texts and no group is on both.

How the sides can be filled is a subset-sum problem; its sums are kept as the bits of one integer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from studies.data.dataset import Ints

# Random divisions that are tried before the one that is built so that it must succeed.
_TRIES = 4
SUPPORT, QUERY, FREE = 1, 0, -1
Sides = npt.NDArray[np.bool_]


def divisible(sizes: Ints, support: int, query: int) -> bool:
    """Return whether groups of these sizes can be divided.

    Args:
        sizes: (G,) texts of each group.
        support: Texts that the support needs.
        query: Texts that the query needs.
    """
    return _within(_sums(sizes.tolist())[0], support, int(sizes.sum()) - query)


def divide(sizes: Ints, fixed: Ints, support: int, query: int, rng: np.random.Generator) -> Sides | None:
    """Return which groups are on the side of the support, or None where no division gives both sides enough.

    Each group falls on either side with the same probability, unless one side would then lack texts.

    Args:
        sizes: (G,) texts of each group.
        fixed: (G,) `SUPPORT` or `QUERY` where another class has placed the group already, else `FREE`.
        support: Texts that the support needs.
        query: Texts that the query needs.
        rng: Generator of the draw.
    """
    for _ in range(_TRIES):
        side: Sides = np.where(fixed == FREE, rng.random(len(sizes)) < 0.5, fixed == SUPPORT)
        if (found := sizes[side].sum()) >= support and sizes.sum() - found >= query:
            return side
    return _build(sizes, fixed, support, query, rng)


def _build(sizes: Ints, fixed: Ints, support: int, query: int, rng: np.random.Generator) -> Sides | None:
    """Place one group after the other, never so that those that are left could not fill both sides."""
    free = rng.permutation(np.flatnonzero(fixed == FREE))
    sums = _sums(sizes[free].tolist())
    side = fixed == SUPPORT
    placed, most = int(sizes[side].sum()), int(sizes.sum()) - query
    if not _within(sums[0], support - placed, most - placed):
        return None
    for position, group in enumerate(free.tolist(), start=1):
        size = int(sizes[group])
        can_support = _within(sums[position], support - placed - size, most - placed - size)
        can_query = _within(sums[position], support - placed, most - placed)
        side[group] = can_support and (not can_query or rng.random() < 0.5)
        placed += size * bool(side[group])
    return side


def _sums(sizes: Sequence[int]) -> list[int]:
    """Return, for each position, the sums that some of the sizes from there on have: bit s is set where s is one."""
    sums = [1]
    for size in reversed(sizes):
        sums.append(sums[-1] | sums[-1] << size)
    return sums[::-1]


def _within(sums: int, low: int, high: int) -> bool:
    """Return whether any of the sums lies in [low, high]."""
    low = max(low, 0)
    return high >= low and (sums >> low) & ((1 << (high - low + 1)) - 1) != 0
