"""Checks the labelled texts that a caller of serving gives, and brings texts and labels into their one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from storage.errors import InputError
from studies.text_form import normalise_text

Labelled = Sequence[tuple[str, str]]


def check_labelled(labelled: Labelled | Mapping[str, Sequence[str]], known: Sequence[str] = ()) -> dict[str, str]:
    """Return the label of each distinct text, both in their one form.

    Args:
        labelled: (text, label) pairs, or the texts of each label.
        known: The only classes that there are, if they are known.

    Raises:
        InputError: There are not at least two classes, nor one that is known; a text or label is blank or no text, or a
            text has two labels.
    """
    found: dict[str, str] = {}
    for number, pair in enumerate(_pairs(labelled)):
        text, label = (_checked(value, kind, number) for value, kind in zip(pair, ("text", "label"), strict=True))
        if found.setdefault(text, label) != label:
            raise InputError(
                f"the text {text!r} is labelled {found[text]!r} and {label!r}; give it one label, or leave it out"
            )
    if strange := [label for label in found.values() if known and label not in known]:
        raise InputError(
            f"this student knows no class {strange[0]!r}; it classifies among the {len(known):,} classes that it was "
            f"trained on, such as {known[0]!r}: correct the label, or leave its texts out"
        )
    if not found:
        raise InputError("there are no labelled texts; give (text, label) pairs of at least two labels")
    if len(set(found.values())) == 1 and not known:
        raise InputError(
            f"every labelled text has the label {next(iter(found.values()))!r}; give texts of at least two labels"
        )
    return found


def _pairs(labelled: Labelled | Mapping[str, Sequence[str]]) -> list[tuple[object, object]]:
    if isinstance(labelled, Mapping):
        for label, texts in labelled.items():
            if isinstance(texts, str):
                raise InputError(f"the label {label!r} has the text {texts!r}; give a list of texts, [{texts!r}]")
            if len(texts) == 0:
                raise InputError(f"the label {label!r} has no texts; give at least one, or leave the label out")
        return [(text, label) for label, texts in labelled.items() for text in texts]
    for number, pair in enumerate(labelled):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"the labelled text at position {number} is {pair!r}; give a pair (text, label)")
    return [(text, label) for text, label in labelled]


def _checked(value: object, kind: str, number: int) -> str:
    """Return a text or a label in its one form."""
    if not isinstance(value, str):
        remedy = f"; give its name, such as {str(value)!r}" if kind == "label" else "; leave it out"
        raise InputError(f"the {kind} at position {number} is {value!r}, which is not a text{remedy}")
    if not (normal := normalise_text(value)):
        raise InputError(f"the {kind} at position {number} is {value!r}, which is blank; leave it out")
    return normal
