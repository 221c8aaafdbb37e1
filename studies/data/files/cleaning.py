"""Reads the tables of `source = "files"`, cleans their rows, and joins users, items, texts and scenes.

A row that cannot be used is an error, or is dropped and counted: `data.invalid` says which.
"""

from __future__ import annotations

import time

import polars as pl

from storage.errors import InputError
from studies.data.files.keys import FileKeys, Positive
from studies.data.files.tables import ROW, TIME, Rows, Table, hint
from studies.data.files.text_template import blank_to_null, render_text, text_fields
from studies.data.files.times import BLANKS, Clock, tidy, to_seconds
from studies.data.source import Tables

# Columns added to those of a file; the "#" keeps them apart from the user's names.
_USER, _PRODUCT, _SCENE, _TEXT, _SECONDS = "#user", "#product", "#scene", "#text", "#seconds"
_DAY = 86_400


def read_tables(keys: FileKeys) -> Tables:
    """Read and clean the tables that the study file names.

    Raises:
        InputError: A file, column or row is not as the keys say; the message names it, and the remedy.
    """
    return _TableReader(keys).read()


def _identifier(column: str) -> pl.Expr:
    return blank_to_null(pl.col(column).str.strip_chars(), BLANKS)


def _is_positive(positive: Positive) -> tuple[pl.Expr, pl.Expr]:
    """Return whether a row is positive, and whether its value is not a number where numbers are compared."""
    text = pl.col(positive.column).str.strip_chars()
    if positive.values is not None:
        # 1 is "1" in one file and "1.0" in another; true is "true" or "True".
        forms = {form for value in positive.values for form in _spellings(value)}
        return text.is_in(sorted(forms)).fill_null(False), pl.lit(False)
    score = text.cast(pl.Float64, strict=False).fill_nan(None)
    return (score >= positive.at_least).fill_null(False), (score.is_null() & ~text.is_in(BLANKS)).fill_null(False)


def _reason(positive: Positive) -> str:
    if positive.values is None:
        return f"{positive.column} missing or below {positive.at_least:g}"
    return f"{positive.column} not among {', '.join(map(str, positive.values))}"


def _spellings(value: str | bool | int | float) -> list[str]:
    if isinstance(value, bool):
        return [str(value), str(value).lower()]
    if isinstance(value, str):
        return [value.strip()]
    return [f"{value:.0f}", f"{value:.1f}"] if value == int(value) else [str(value)]


class _TableReader:
    """Reads the tables of one study file; collects the numbers of dropped rows and the notes."""

    def __init__(self, keys: FileKeys) -> None:
        self.keys = keys
        self.dropped: dict[str, int] = {}
        self.notes: list[str] = []
        self.log = Table("interactions", keys.interactions, keys.delimiter, keys.encoding)
        self.items = Table("items", keys.items, keys.delimiter, keys.encoding) if keys.items else None
        self.users = Table("users", keys.users, keys.delimiter, keys.encoding) if keys.users else None
        self._check_columns()
        self.scene_table = self._scene_table()

    def read(self) -> Tables:
        log, count = self._read_log()
        items = self._items_from_log(log) if self.items is None else self._read_items(self.items)
        if self.users is not None and self.scene_table is self.users:
            log = log.join(self._read_users(self.users), on=_USER, how="left", maintain_order="left")
        elif self.users is not None:
            self.notes.append(f"data.users was not needed: the scene is in data.{self.scene_table.key}.")
        self._check_not_empty(log, items)
        guessed = [note for table in (self.log, self.items, self.users) if table for note in table.notes]
        own = {"user": _USER, "product": _PRODUCT, "time": _SECONDS, "scene": _SCENE, "text": _TEXT}
        log, items = (
            frame.select(pl.col(column).alias(name) for name, column in own.items() if column in frame.columns)
            for frame in (log, items)
        )
        return Tables(log, items, count, self.dropped, (*self.notes, *guessed))

    def _scene_table(self) -> Table:
        keys = self.keys
        if keys.scene_is_user:
            return self.log
        tables = [table for table in (self.items, self.log, self.users) if table is not None]
        for table in tables:
            if table.has(keys.scene):
                table.require([keys.scene], "scene")
                table.require([keys.user] if table is self.users else [], "user")
                return table
        columns = list(dict.fromkeys(column for table in tables for column in table.columns))
        where = ", ".join(f"data.{table.key} ({table.name})" for table in tables)
        raise InputError(
            f'data.scene: no column "{keys.scene}" in {where}{hint(keys.scene, columns)}; correct data.scene'
        )

    def _check_columns(self) -> None:
        keys = self.keys
        self.log.require([keys.user], "user")
        self.log.require([keys.item], "item")
        self.log.require([keys.time], "time")
        if keys.positive is not None:
            self.log.require([keys.positive.column], "positive.column")
        if self.items is not None:
            self.items.require([keys.item], "item")
        (self.items or self.log).require(text_fields(keys.text), "text")

    def _read_log(self) -> tuple[pl.DataFrame, int]:
        keys, positive = self.keys, self.keys.positive
        has_scene = self.scene_table is self.log
        fields = text_fields(keys.text) if self.items is None else []
        wanted = [keys.user, keys.item, *fields, *([keys.scene] if has_scene else [])]
        if positive is None:
            rows = self.log.read(wanted, keys.time)
        else:
            is_positive, unreadable = _is_positive(positive)
            rows = self.log.read([*wanted, positive.column], keys.time, is_positive | unreadable)
        frame = rows.frame.select(
            *{ROW, TIME, *fields, *([positive.column] if positive else [])},
            _identifier(keys.user).alias(_USER),
            _identifier(keys.item).alias(_PRODUCT),
            *([_identifier(keys.scene).alias(_SCENE)] if has_scene else []),
        )
        if positive is not None:
            reason = _reason(positive)
            self._check_positive_values(positive, set(frame[positive.column].str.strip_chars().unique()))
            self.dropped |= {reason: rows.count - len(frame)} if len(frame) < rows.count else {}
            remedy = "compare numbers with at_least and text with values"
            frame = self._reject(
                rows, frame, unreadable, positive.column, f"{positive.column} not a number", remedy, positive.column
            )
        remedy = "fill them in"
        frame = self._reject(rows, frame, pl.col(_USER).is_null(), keys.user, "row without user", remedy)
        frame = self._reject(rows, frame, pl.col(_PRODUCT).is_null(), keys.item, "row without item", remedy)
        return self._convert_times(rows, frame), rows.count

    def _convert_times(self, rows: Rows, frame: pl.DataFrame) -> pl.DataFrame:
        keys = self.keys
        raw = tidy(frame[TIME])
        frame = frame.with_columns(raw)
        frame = self._reject(rows, frame, pl.col(TIME).is_null(), keys.time, "row without time", "fill them in")
        seconds, note = to_seconds(frame[TIME].alias(keys.time), Clock(keys.time_unit, keys.time_format, keys.timezone))
        self.notes += [note] if note else []
        frame = frame.with_columns(seconds.alias(_SECONDS))
        form = f'"{keys.time_format}"' if keys.time_format else "a number or an ISO 8601 date"
        frame = self._reject(
            rows, frame, pl.col(_SECONDS).is_null(), keys.time, f"time that is not {form}", "set data.time_format", TIME
        )
        outside = (pl.col(_SECONDS) < 0) | (pl.col(_SECONDS) > int(time.time()) + _DAY)
        remedy = "set data.time_unit or data.time_format"
        frame = self._reject(rows, frame, outside, keys.time, "time before 1970 or in the future", remedy, TIME)
        return frame.drop(TIME)

    def _items_from_log(self, log: pl.DataFrame) -> pl.DataFrame:
        """Return one row per item of a log without a catalogue, with the text of its earliest row that has one."""
        fields = text_fields(self.keys.text)
        distinct = log.group_by(_PRODUCT, *(pl.col(name) for name in fields)).agg(pl.col(_SECONDS).min())
        texts = distinct.with_columns(render_text(self.keys.text).alias(_TEXT)).sort(_SECONDS, _TEXT)
        of_item = pl.col(_TEXT).drop_nulls()
        items = texts.group_by(_PRODUCT).agg(of_item.first(), several=of_item.n_unique() > 1).sort(_PRODUCT)
        if count := int(items["several"].sum()):
            self.notes.append(f"{count:,} items have more than one text; the earliest is used.")
        return items

    def _read_items(self, table: Table) -> pl.DataFrame:
        keys = self.keys
        has_scene = self.scene_table is table
        rows = table.read([keys.item, *text_fields(keys.text), *([keys.scene] if has_scene else [])])
        frame = rows.frame.select(
            ROW,
            _identifier(keys.item).alias(_PRODUCT),
            render_text(keys.text).alias(_TEXT),
            *([_identifier(keys.scene).alias(_SCENE)] if has_scene else []),
        )
        frame = self._reject(rows, frame, pl.col(_PRODUCT).is_null(), keys.item, "item without id", "fill them in")
        return self._merge_rows(table, frame, _PRODUCT, {_TEXT: "texts"} | ({_SCENE: "scenes"} if has_scene else {}))

    def _read_users(self, table: Table) -> pl.DataFrame:
        keys = self.keys
        rows = table.read([keys.user, keys.scene])
        frame = rows.frame.select(ROW, _identifier(keys.user).alias(_USER), _identifier(keys.scene).alias(_SCENE))
        frame = self._reject(rows, frame, pl.col(_USER).is_null(), keys.user, "user without id", "fill them in")
        return self._merge_rows(table, frame, _USER, {_SCENE: "scenes"})

    def _merge_rows(self, table: Table, frame: pl.DataFrame, key: str, values: dict[str, str]) -> pl.DataFrame:
        """Return one row per id; equal rows are merged, contradicting rows are an error."""
        frame = frame.drop(ROW)
        if not frame[key].is_duplicated().any():
            return frame
        kind = "item" if key == _PRODUCT else "user"
        for column, name in values.items():
            pairs = frame.select(key, column).drop_nulls().unique()
            clash = pairs.filter(pl.col(key).is_duplicated()).sort(key, column)
            if len(clash):
                first = clash[key][0]
                found = ", ".join(f'"{value}"' for value in clash.filter(pl.col(key) == first)[column].head(3))
                raise InputError(
                    f'{table.name}: {kind} "{first}" has several {name}: {found}; keep one row of each {kind}'
                    + (" (a scene that changes with the visit belongs in the log)" if name == "scenes" else "")
                )
        merged = frame.group_by(key, maintain_order=True).agg(pl.col(column).drop_nulls().first() for column in values)
        self.notes.append(f"{len(frame) - len(merged):,} repeated rows of {table.name} were merged.")
        return merged

    def _reject(
        self,
        rows: Rows,
        frame: pl.DataFrame,
        bad: pl.Expr,
        column: str,
        reason: str,
        remedy: str,
        shown: str | None = None,
    ) -> pl.DataFrame:
        """Drop and count the bad rows, or raise InputError, as `data.invalid` says."""
        broken = frame.filter(bad)
        if broken.is_empty():
            return frame
        if self.keys.invalid == "refuse":
            places = [rows.place(row) for row in broken[ROW].head(3)]
            values = [f" ({value!r})" for value in broken[shown].head(3)] if shown else [""] * 3
            first = ", ".join(place + value for place, value in zip(places, values, strict=False))
            raise InputError(
                f'column "{column}": {reason} in {len(broken):,} of {len(frame):,} rows: {first}; {remedy}, or set '
                'data.invalid = "drop" to leave such rows out'
            )
        if rows.key == "interactions":
            self.dropped[reason] = len(broken)
        else:
            self.notes.append(f"{len(broken):,} rows of data.{rows.key} were left out: {reason}.")
        return frame.filter(~bad)

    def _check_positive_values(self, positive: Positive, found: set[str]) -> None:
        """Raise InputError for a value that no row has, or a bound that no row reaches."""
        unknown = [str(value) for value in positive.values or [] if not found & set(_spellings(value))]
        if found and not unknown:
            return
        column = self.log.read([positive.column]).frame[positive.column]
        common = column.value_counts(sort=True)[positive.column].head(5)
        said = f"no row of {self.log.name} has {positive.column} = {unknown[0]!r}" if unknown else _reason(positive)
        raise InputError(
            f"data.positive: {said}{'' if unknown else f' in every row of {self.log.name}'}; the most frequent values "
            f"are {', '.join(map(repr, common))}: correct data.positive"
        )

    def _check_not_empty(self, log: pl.DataFrame, items: pl.DataFrame) -> None:
        described = self.items or self.log
        has_scene = items if self.scene_table is self.items else log
        for frame, column, table, key in (
            (items, _TEXT, described, "text"),
            (has_scene, _SCENE, self.scene_table, "scene"),
        ):
            if len(frame) and frame[column].null_count() == len(frame):
                raise InputError(
                    f"data.{key} = {getattr(self.keys, key)!r}: empty in every row of {table.name}; name a column "
                    "with values"
                )
