"""The source `"files"` of classification: the user's own parquet or CSV files of texts and labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import ValidationInfo, field_validator, model_validator

from storage.errors import InputError, quoted
from studies.classification.data.source import LabelledRows, LabelledSource
from studies.data.files.ids import spell_alike
from studies.data.files.invalid_rows import RowFilter
from studies.data.files.keys import Column, TableKeys
from studies.data.files.parts import SECONDS, find_parts
from studies.data.files.tables import Table
from studies.data.files.text_template import render_text, text_fields
from studies.data.source import absolute_paths
from studies.text_form import PAIR


class LabelledFiles(TableKeys, LabelledSource):
    """Tables in files; the study file names the files and their columns.

    Attributes:
        rows: The labelled texts: a file, several files, or a folder. A row with an empty label is an unlabelled text.
        unlabelled: Tables of texts without labels; they need the columns of the text only.
        text_pair: A second text of a row, read behind the first as a pair: the item beside the query in `text`. Equal
            pairs are one text.
        label: Column of the class.
        scene: Column of the scene whose classes make an episode. Without it, classes of all rows do.
        group: Column of what must not be on both sides of an episode, such as a supplier or a model.
        time: Column of the time.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"rows", "unlabelled"})
    examples: ClassVar[Mapping[str, str]] = {"rows": '"products.csv"', "text": '"{title}, {brand}"'}

    source: Literal["files"]
    rows: list[str]
    unlabelled: list[str] | None = None
    text_pair: Column | list[Column] | None = None
    label: Column = "label"
    scene: Column | None = None
    group: Column | None = None
    time: Column | None = None

    @field_validator("rows", "unlabelled", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> list[str] | None:
        return None if value is None else absolute_paths(value, info)

    @model_validator(mode="after")
    def _label_is_not_read(self) -> LabelledFiles:
        if self.label in self.read_columns:
            raise ValueError(
                f'text holds "{self.label}", the column of the label: every answer would be in its text; take it out'
            )
        return self

    @property
    def read_columns(self) -> list[str]:
        """Return the columns of both texts."""
        return [*text_fields(self.text), *(text_fields(self.text_pair) if self.text_pair is not None else ())]

    def files(self) -> list[Path]:
        """Return all files of the tables, sorted.

        Raises:
            InputError: A path does not exist, a folder is empty or mixes formats, or a format is unknown.
        """
        named = {"rows": self.rows, "unlabelled": self.unlabelled or []}
        return sorted({part.path for key, paths in named.items() for part in find_parts(key, paths)})

    def read(self) -> LabelledRows:
        """Read and clean the tables.

        Raises:
            InputError: A file cannot be read, a column is missing, or rows are unusable and `invalid` refuses them.
        """
        return _Reader(self).read()


class _Reader:
    """Reads the tables of one study file; collects the numbers of dropped rows, the notes and the warnings."""

    def __init__(self, keys: LabelledFiles) -> None:
        self.keys = keys
        self.filter = RowFilter(keys.invalid, main="rows")
        self.rows_read = 0

    def read(self) -> LabelledRows:
        """Return the rows of all tables, their names in one spelling."""
        keys, columns = self.keys, self._columns()
        table = Table("rows", keys.rows, keys.delimiter, keys.encoding)
        for key, column in columns.items():
            table.require([column], key)
        frames = [self._read(table, columns)]
        if frames[0]["text"].null_count() == len(frames[0]):
            raise InputError(
                f"data.text = {keys.text!r}: empty in every row of {table.name}; name a column with values"
            )
        if keys.unlabelled is not None:
            more = Table("unlabelled", keys.unlabelled, keys.delimiter, keys.encoding)
            known = {key: column for key, column in columns.items() if key != "label" and more.has(column)}
            frames.append(self._read(more, known))
        rows = self._spelled(pl.concat(frames, how="diagonal"))
        notes, warnings = tuple(self.filter.notes), tuple(self.filter.warnings)
        return LabelledRows(rows, self.rows_read, self.filter.dropped, notes, warnings)

    def _columns(self) -> dict[str, str]:
        """Return the columns that the study file names, by their keys."""
        named = {name: getattr(self.keys, name) for name in ("label", "scene", "group", "time")}
        return {name: column for name, column in named.items() if column is not None}

    def _read(self, table: Table, columns: dict[str, str]) -> pl.DataFrame:
        """Return the rows of one table: `text`, and a column for each key of `columns`."""
        keys, names = self.keys, {key: column for key, column in columns.items() if key != "time"}
        table.require(text_fields(keys.text), "text")
        if keys.text_pair is not None:
            table.require(text_fields(keys.text_pair), "text_pair")
        rows = table.read([*keys.read_columns, *names.values()], columns.get("time"))
        self.rows_read += rows.count
        self.filter.notes += table.notes
        self.filter.warnings += table.warnings
        own = [pl.col(column).alias(f"#{key}") for key, column in names.items()]
        frame = rows.frame.with_columns(*own, self._text().alias("#text"))
        kept = ["#text", *(f"#{key}" for key in names)]
        if "time" in columns:
            frame = self.filter.convert_times(rows, frame, columns["time"], keys).with_columns(
                pl.col(SECONDS).alias("#time")
            )
            kept.append("#time")
        return frame.select(pl.col(name).alias(name[1:]) for name in kept)

    def _text(self) -> pl.Expr:
        """Return the text of a row, which is null where it lacks one of a pair."""
        text = render_text(self.keys.text)
        if self.keys.text_pair is None:
            return text
        pair = render_text(self.keys.text_pair)
        complete = (text.str.strip_chars() != "") & (pair.str.strip_chars() != "")
        return pl.when(complete).then(pl.concat_str(text, pl.lit(f" {PAIR} "), pair))

    def _spelled(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with labels, scenes and groups in one spelling; say which labels mean a missing one."""
        for name in ("label", "scene", "group"):
            if name not in rows.columns:
                continue
            written, spelled = rows[name], spell_alike(rows[name]).log.alias(name)
            words = written.filter(spelled.is_null()).drop_nulls().unique().sort()
            words = words.filter(words.str.strip_chars() != "")
            if len(words) and name == "label":
                shown = ", ".join(quoted(word) for word in words.head(3))
                self.filter.notes.append(f"Labels that mean a missing value, such as {shown}, are read as no label.")
            rows = rows.with_columns(spelled)
        return rows
