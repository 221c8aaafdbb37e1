"""Brings columns of text into the one form of `studies/text_form.py`."""

from __future__ import annotations

import polars as pl

from studies.text_form import LONGEST, normalise_text

# What the form may change; everything else is left to the fast path.
_UNUSUAL = r"[^\x20-\x7E]|^ | $"


def normalise_column(column: pl.Series) -> pl.Series:
    """Return a column of text with every value in its one form; nulls stay."""
    unusual = column.str.contains(_UNUSUAL) | (column.str.len_bytes() > LONGEST)
    found = column.filter(unusual).unique()
    return column.replace(found, [normalise_text(text) for text in found]) if len(found) else column
