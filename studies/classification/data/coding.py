"""Turns the rows of a labelled source into `LabelledTexts`: distinct texts, integer codes, rows in a fixed order.

Rows that cannot be used are dropped and counted by reason.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from storage.errors import quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.label_faults import warn_of_labels
from studies.classification.data.source import LabelledRows
from studies.data.text_columns import normalise_column
from studies.text_form import LONGEST, PAIR

# Columns that hold names; an empty name is none.
_NAMES = ("text", "label", "group", "scene")


def build_labelled(source: LabelledRows) -> LabelledTexts:
    """Return the coded rows of a source: one for each text and scene, with the label that all its rows agree on."""
    rows, notes = _complete(source.rows), list(source.notes)
    dropped = dict(source.dropped)
    cut = int((rows["text"].str.len_bytes() > LONGEST).sum())
    rows = rows.with_columns(_normalised(rows, name) for name in _NAMES)
    if cut:
        texts = "text is" if cut == 1 else "texts are"
        notes.append(f"{cut:,} {texts} longer than {LONGEST:,} characters; the rest of it is left out.")
    rows = _drop(rows, pl.col("text").is_null(), "row without text", dropped)
    if "scene" in source.rows.columns:
        rows = _drop(rows, pl.col("scene").is_null() & pl.col("label").is_not_null(), "row without a scene", dropped)
    rows = _drop_contradictions(rows, dropped, notes)
    merged = _merge(rows)
    if (repeated := len(rows) - len(merged)) > 0:
        notes.append(f"{repeated:,} rows repeat the text of another row and were merged with it.")
    coded = _coded(merged)
    return LabelledTexts(
        **coded,
        rows_read=source.rows_read,
        dropped=dropped,
        notes=tuple(notes),
        warnings=(*source.warnings, *warn_of_labels(coded["labels"])),
    ).sealed()


def _complete(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with all columns, as text but for the time."""
    missing = [pl.lit(None, pl.String).alias(name) for name in _NAMES if name not in rows.columns]
    times = [] if "time" in rows.columns else [pl.lit(0, pl.Int64).alias("time")]
    rows = rows.with_columns(*missing, *times)
    return rows.select(*(pl.col(name).cast(pl.String) for name in _NAMES), pl.col("time").cast(pl.Int64).fill_null(0))


def _normalised(rows: pl.DataFrame, name: str) -> pl.Series:
    column = normalise_column(rows[name])
    return column.set(column == "", None)


def _drop(rows: pl.DataFrame, bad: pl.Expr, reason: str, dropped: dict[str, int]) -> pl.DataFrame:
    kept = rows.filter(~bad)
    if len(kept) < len(rows):
        dropped[reason] = dropped.get(reason, 0) + len(rows) - len(kept)
    return kept


def _drop_contradictions(rows: pl.DataFrame, dropped: dict[str, int], notes: list[str]) -> pl.DataFrame:
    """Drop every row of a text that stands under several labels: no answer to it would be right."""
    pairs = rows.select("text", "label").drop_nulls().unique()
    several = pairs.filter(pl.col("text").is_duplicated()).sort("text", "label")
    if several.is_empty():
        return rows
    first = several["text"][0]
    labels = several.filter(pl.col("text") == first)["label"].head(3)
    count = several["text"].n_unique()
    under = " and ".join(quoted(label) for label in labels)
    notes.append(
        f"{count:,} {'text has' if count == 1 else 'texts have'} several labels and "
        f"{'is' if count == 1 else 'are'} left out, such as {quoted(first.replace(PAIR, '|'))} under {under}."
    )
    return _drop(rows, pl.col("text").is_in(several["text"].unique().implode()), "text under several labels", dropped)


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each text and scene: its label, its first group, its earliest time.

    A text that is labelled in one row is labelled in all.
    """
    labels = rows.select("text", "label").drop_nulls().unique()
    merged = rows.group_by("text", "scene").agg(pl.col("group").min(), pl.col("time").min())
    merged = merged.join(labels, on="text", how="left")
    if rows["scene"].null_count() < len(rows):
        # Without a scene it says nothing that its other rows do not.
        merged = merged.filter(pl.col("label").is_null() | pl.col("scene").is_not_null())
    return merged.sort("text", "label", "group", "scene")


def _coded(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the names of texts, labels, groups and scenes, and the codes of them that rows and classes have."""
    found: dict[str, Any] = {"time": rows["time"].to_numpy()}
    for column in _NAMES:
        used = pl.concat([rows["text"], rows["label"]]) if column == "text" else rows[column]
        names = used.drop_nulls().unique().sort()
        table = pl.DataFrame({column: names, "code": np.arange(len(names))})
        codes = rows.select(column).join(table, on=column, how="left", maintain_order="left")["code"]
        found |= {f"{column}s": tuple(names), column: codes.fill_null(-1).to_numpy()}
    places = {text: code for code, text in enumerate(found["texts"])}
    found["names"] = np.array([places[label] for label in found["labels"]], dtype=np.int64)
    return found
