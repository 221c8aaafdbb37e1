"""Selects the classes that a study uses: those of which episodes can be drawn, at most `max_classes` of them."""

from __future__ import annotations

import itertools

import numpy as np

from storage.errors import InputError, quoted
from studies.classification.data.dataset import LabelledTexts, keep_classes
from studies.classification.data.source import LabelledSource
from studies.classification.known.row_split import trained_classes
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.pools import Pool, pools
from studies.classification.sampling.sides import divisible
from studies.classification.scenes.split import trained_scene_classes
from studies.data.dataset import Ints
from studies.data.digest_order import order_by_digest
from studies.episodes.split import SPLIT_NAMES

# The keys of the protocol that say what a class must have.
_KEYS = ("shots", "queries", "min_rows", "min_groups")


def select_classes(data: LabelledTexts, section: LabelledSource, protocol: ClassificationProtocol) -> LabelledTexts:
    """Return the data with the classes that a study uses; the texts of the others stay, unlabelled.

    Args:
        data: All data of the source.
        section: The most classes.
        protocol: What a class must have.

    Raises:
        InputError: There is no label, only one, or no class is large enough.
    """
    _check_labels(data)
    eligible = eligible_classes(data, protocol)
    if len(eligible) == 0:
        raise InputError(_too_small(data, protocol))
    data = keep_classes(data, eligible, f"too small ({_asked(data, protocol)})")
    if protocol.known:
        trained = trained_scene_classes(data, protocol) if protocol.scenes else trained_classes(data, protocol)
        data = keep_classes(data, trained, "without a training text")
    if section.max_classes is not None and section.max_classes < len(data.labels):
        sample = order_by_digest(data.labels, seed=0)[: section.max_classes]
        data = keep_classes(data, sample, "not in the sample of max_classes")
    return data


def eligible_classes(data: LabelledTexts, protocol: ClassificationProtocol) -> Ints:
    """Return the codes of the classes that an episode of some scene can be drawn of, ascending.

    Known classes need a text for each split.
    """
    if protocol.known:
        sizes = np.bincount(data.label[data.label >= 0], minlength=len(data.labels))
        return np.flatnonzero(sizes >= max(protocol.min_rows or 0, len(SPLIT_NAMES)))
    codes = {
        code
        for of_scene in pools(data).values()
        for code, pool in of_scene.items()
        if pool.allows(protocol, protocol.shots)
    }
    return np.array(sorted(codes), dtype=np.int64)


def _check_labels(data: LabelledTexts) -> None:
    if len(data.labels) > 1:
        return
    reasons = "; ".join(f"{count:,}: {reason}" for reason, count in data.dropped.items())
    dropped = f" (dropped: {reasons})" if reasons else ""
    found = f"every labelled text is {quoted(data.labels[0])}" if data.labels else "no text has a label"
    raise InputError(
        f"{found} in {data.rows_read:,} rows{dropped}: there is nothing to tell apart; name the column of the classes "
        "in data.label, or add rows of other classes: hpo data check shows what was read"
    )


def _asked(data: LabelledTexts, protocol: ClassificationProtocol) -> str:
    """Return what the protocol asks of a class, in the words of the study file."""
    if protocol.known:
        return f"min_rows = {max(protocol.min_rows or 0, len(SPLIT_NAMES))}"
    keys = [f"{name} = {value}" for name in _KEYS if (value := getattr(protocol, name)) is not None]
    apart = ", support and query from different groups" if data.groups else ""
    return ", ".join(keys) + apart


def _too_small(data: LabelledTexts, protocol: ClassificationProtocol) -> str:
    """Return the message that no class can be used: what the largest one has, and what would make it eligible."""
    everywhere = [(code, pool) for of_scene in pools(data).values() for code, pool in of_scene.items()]
    code, largest = max(everywhere, key=lambda found: (len(found[1].texts), -found[0]))
    texts, groups = len(largest.texts), len(largest.sizes)
    has = f"{texts} text{'s' * (texts != 1)}" + (f" in {groups} group{'s' * (groups != 1)}" if data.groups else "")
    return (
        f"none of the {len(data.labels):,} classes is as large as [protocol] asks ({_asked(data, protocol)}); the "
        f"largest, {quoted(data.labels[code])}, has {has}{' in one scene' if data.scenes else ''}: "
        f"{_remedy(largest, protocol)}"
    )


def _remedy(pool: Pool, protocol: ClassificationProtocol) -> str:
    """Return what to change so that a class with this pool can be used."""
    if protocol.known:
        return "lower protocol.min_rows, or give more labelled rows" if protocol.min_rows else "give more labelled rows"
    if len(pool.sizes) < 2 <= len(pool.texts):
        return "name a finer column in data.group, or leave it out"
    pairs = itertools.product(range(protocol.shots, 0, -1), range(protocol.queries, 0, -1))
    fitting = next((pair for pair in pairs if divisible(pool.sizes, *pair)), None)
    if fitting is None:
        return "give more labelled rows, or correct data.label"
    allowed = dict(zip(_KEYS, [*fitting, len(pool.texts), len(pool.sizes)], strict=True))
    lower = [f"protocol.{name} to {most}" for name, most in allowed.items() if (getattr(protocol, name) or 0) > most]
    return f"lower {' and '.join(lower)}, or give more labelled rows"
