"""Texts of a request as the student reads them: one text, or both texts of a pair as one."""

from __future__ import annotations

from collections.abc import Sequence

from distill.serving.served_student import ServedStudent
from storage.errors import InputError
from studies.text_form import join_pair


def as_texts(given: Sequence[str | list[str]], student: ServedStudent) -> list[str]:
    """Return each text, or both of a pair as one.

    Raises:
        InputError: A pair for a student of single texts, or a single text for one of pairs; or a blank second text.
    """
    pairs = student.manifest.reads_pairs
    for position, text in enumerate(given):
        if isinstance(text, str) == pairs:
            wanted = 'reads pairs of texts: give ["a text", "its second one"]' if pairs else "reads one text, no pairs"
            raise InputError(f"the text at position {position} is {text!r:.200}, and the student {wanted}")
        if pairs and not text[1].strip():
            raise InputError(f"the pair at position {position} has a blank second text; leave such pairs out")
    return [text if isinstance(text, str) else join_pair(*text) for text in given]
