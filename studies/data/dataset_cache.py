"""Caches what was read from a source, so that a later start takes seconds.

A data set is a dataclass of integer arrays, tuples of strings and small values. Arrays and strings are parquet files,
one for each; the rest is one JSON file.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from storage.files.cache_entries import intact, new_entry

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Increase it whenever the stored form changes, or how a source's rows become a data set.
FORMAT = 6

Data = TypeVar("Data", bound="DataclassInstance")


def save(data: DataclassInstance, folder: Path) -> None:
    """Write a data set to `folder` atomically, replacing an earlier entry."""
    about: dict[str, Any] = {}
    with new_entry(folder) as draft:
        for field in fields(data):
            value = getattr(data, field.name)
            if isinstance(value, np.ndarray | tuple):
                kind = pl.Int64 if isinstance(value, np.ndarray) else pl.String
                pl.DataFrame({field.name: pl.Series(value, dtype=kind)}).write_parquet(draft / f"{field.name}.parquet")
            else:
                about[field.name] = value
        (draft / "about.json").write_text(json.dumps(about), encoding="utf-8")


def load(folder: Path, kind: type[Data]) -> Data | None:
    """Return the data set that `save` wrote, or None where there is none or it was altered."""
    if not intact(folder):
        return None
    values: dict[str, Any] = json.loads((folder / "about.json").read_bytes())
    for field in fields(kind):
        if field.name not in values:
            column = pl.read_parquet(folder / f"{field.name}.parquet")[field.name]
            values[field.name] = tuple(column) if column.dtype == pl.String else column.to_numpy()
    return kind(**values)
