"""Finds labels that are probably not what they are meant to be: one class written in two ways, and measured numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from storage.errors import quoted
from studies.text_form import fold_name

_FRACTION = re.compile(r"[+-]?\d*[.,]\d*[1-9]\d*(?:[eE][+-]?\d+)?")


def warn_of_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each fault that the names of classes show."""
    return (*_written_twice(labels), *_numbers(labels))


def _written_twice(labels: Sequence[str]) -> list[str]:
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(fold_name(label), []).append(label)
    twice = [names for names in spellings.values() if len(names) > 1]
    if not twice:
        return []
    first = " and ".join(quoted(name) for name in twice[0][:3])
    return [
        f"{len(twice):,} {'class differs' if len(twice) == 1 else 'classes differ'} from another by letter case or "
        f"spaces only ({first}) and are counted as classes of their own; write each class in one way."
    ]


def _numbers(labels: Sequence[str]) -> list[str]:
    fractions = [label for label in labels if _FRACTION.fullmatch(label)]
    if len(fractions) * 2 <= len(labels):
        return []
    return [
        f"{len(fractions):,} of {len(labels):,} labels are numbers with a fraction, such as {quoted(fractions[0])}: each "
        "is a class of its own, without regard to how near it is to another; if they measure something, write the name "
        'of a range, such as "low", in the column of the label.'
    ]
