"""Reads the tables of `source = "files"`, cleans their rows, and joins users, items, texts and scenes.

A row that cannot be used is an error, or is dropped and counted: `data.invalid` says which.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from storage.errors import InputError, quoted
from studies.data.files.ids import TRIED, spell_alike
from studies.data.files.invalid_rows import Fault, RowFilter
from studies.data.files.keys import FileKeys, Positive
from studies.data.files.parts import ROW, TIME
from studies.data.files.positive import check_values, choose_sign, is_positive, is_unreadable, open_signs, reason
from studies.data.files.tables import Rows, Table, check_log, hint
from studies.data.files.text_template import render_text, text_fields
from studies.data.files.times import Clock, tidy, to_seconds
from studies.data.files.written_numbers import DecimalSign
from studies.data.source import Tables

# Columns added to those of a file; the "#" keeps them apart from the user's names.
_USER, _PRODUCT, _SCENE, _TEXT, _SECONDS = "#user", "#product", "#scene", "#text", "#seconds"
_FOREIGN = "#foreign"
_DAY = 86_400


def read_tables(keys: FileKeys) -> Tables:
    """Read and clean the tables that the study file names.

    Raises:
        InputError: A file, column or row is not as the keys say; the message names it, and the remedy.
    """
    return _TableReader(keys).read()


class _Read(NamedTuple):
    """A table's rows as they were read, with the columns that are cleaned."""

    rows: Rows
    frame: pl.DataFrame


def _with_scenes(frame: pl.DataFrame, user_is_scene: bool = False) -> pl.DataFrame:
    """Return the rows with their scenes in one spelling, if they have any; null where a row has none."""
    if user_is_scene:
        return frame.with_columns(pl.col(_USER).alias(_SCENE))
    return frame.with_columns(spell_alike(frame[_SCENE]).log.alias(_SCENE)) if _SCENE in frame.columns else frame


class _TableReader:
    """Reads the tables of one study file; collects the numbers of dropped rows and the notes."""

    def __init__(self, keys: FileKeys) -> None:
        self.keys = keys
        self.filter = RowFilter(keys.invalid)
        self.dropped, self.notes, self.warnings = self.filter.dropped, self.filter.notes, self.filter.warnings
        self.log = Table("interactions", keys.interactions, keys.delimiter, keys.encoding)
        self.items = Table("items", keys.items, keys.delimiter, keys.encoding) if keys.items else None
        self.users = Table("users", keys.users, keys.delimiter, keys.encoding) if keys.users else None
        self._check_columns()
        self.scene_table = self._scene_table()

    def read(self) -> Tables:
        log = self._read_log()
        items = None if self.items is None else self._read_items(self.items)
        users = None
        if self.users is not None and self.scene_table is self.users:
            users = self._read_users(self.users)
        elif self.users is not None:
            self.notes.append(f"data.users was not needed: the scene is in data.{self.scene_table.key}.")
        log, users = self._spell_alike(_USER, log, users)
        log, items = self._spell_alike(_PRODUCT, log, items)
        interactions = self._clean_log(log)
        catalogue = self._items_from_log(interactions) if items is None else self._clean(items, _PRODUCT)
        if users is not None:
            interactions = interactions.join(self._clean(users, _USER), on=_USER, how="left", maintain_order="left")
        self._check_not_empty(interactions, catalogue)
        for table in filter(None, (self.log, self.items, self.users)):
            self.notes += table.notes
            self.warnings += table.warnings
        own = {"user": _USER, "product": _PRODUCT, "time": _SECONDS, "scene": _SCENE, "text": _TEXT}
        interactions, catalogue = (
            frame.select(pl.col(column).alias(name) for name, column in own.items() if column in frame.columns)
            for frame in (interactions, catalogue)
        )
        return Tables(
            interactions, catalogue, log.rows.count, self.dropped, tuple(self.notes), warnings=tuple(self.warnings)
        )

    def _spell_alike(self, column: str, log: _Read, other: _Read | None) -> tuple[_Read, _Read | None]:
        """Bring the ids of a column into one spelling over both tables; say what is lost."""
        ids = spell_alike(log.frame[column], None if other is None else other.frame[column])
        log = log._replace(frame=log.frame.with_columns(ids.log.alias(column)))
        if other is None or ids.table is None:
            return log, None
        other = other._replace(frame=other.frame.with_columns(ids.table.alias(column)))
        key, here, there = ("item" if column == _PRODUCT else "user"), self.log.name, getattr(self, other.rows.key).name
        self.notes += [f"Ids of {key}s were compared without regard to {form}." for form in ids.ignored]
        lost, known = ids.unknown, ids.count
        if len(lost) == 0 or ids.table.null_count() == len(ids.table):
            return log, other
        first, theirs = quoted(lost[0]), quoted(ids.table.drop_nulls()[0])
        if len(lost) == known:
            raise InputError(
                f'data.{key}: none of the {known:,} ids of {here} is in {there}: "{getattr(self.keys, key)}" has '
                f"{first} in the one and {theirs} in the other (compared also without regard to {TRIED}); write "
                f"them alike in both, or correct data.{key} or data.{other.rows.key}"
            )
        (self.warnings if 2 * len(lost) > known else self.notes).append(
            f"{len(lost):,} of {known:,} ids of {key}s in the log are not in data.{other.rows.key}, such as {first}; "
            f"it has ids such as {theirs}."
        )
        return log, other

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
        check_log({"user": keys.user, "item": keys.item, "time": keys.time}, self.log)
        if keys.positive is not None:
            self.log.require([keys.positive.column], "positive.column")
        if self.items is not None:
            self.items.require([keys.item], "item")
        (self.items or self.log).require(text_fields(keys.text), "text")

    def _read_log(self) -> _Read:
        keys, positive = self.keys, self.keys.positive
        has_scene = self.scene_table is self.log
        fields = text_fields(keys.text) if self.items is None else []
        wanted = [keys.user, keys.item, *fields, *([keys.scene] if has_scene else [])]
        if positive is None:
            rows = self.log.read(wanted, keys.time)
        else:
            signs = open_signs(positive, self.log, keys.decimal)
            keep = is_positive(positive, *signs) | is_unreadable(positive)
            rows = self.log.read([*wanted, positive.column], keys.time, keep)
            rows = replace(rows, frame=self._positive_rows(positive, rows, signs))
        frame = rows.frame.select(
            *{ROW, TIME, *fields},
            pl.col(keys.user).alias(_USER),
            pl.col(keys.item).alias(_PRODUCT),
            *([pl.col(keys.scene).alias(_SCENE)] if has_scene else []),
        )
        return _Read(rows, frame)

    def _positive_rows(self, positive: Positive, rows: Rows, signs: tuple[DecimalSign, ...]) -> pl.DataFrame:
        """Return the rows that count, of those that count with any of the decimal signs."""
        (sign, warning), frame = (signs[0], None), rows.frame
        if len(signs) > 1:
            sign, warning = choose_sign(positive, frame, self.log)
            frame = frame.filter(is_positive(positive, sign) | is_unreadable(positive))
        self.warnings += [warning] if warning else []
        check_values(positive, frame[positive.column], self.log, sign)
        self.dropped |= {reason(positive): rows.count - len(frame)} if len(frame) < rows.count else {}
        fault = Fault(
            positive.column,
            f"{positive.column} not a number",
            "compare numbers with at_least and text with values",
            "name a column of numbers in data.positive, or list the texts that count in its values instead of at_least",
            positive.column,
        )
        return self.filter.reject(rows, frame, is_unreadable(positive), fault, rows.count)

    def _clean_log(self, log: _Read) -> pl.DataFrame:
        keys = self.keys
        rows, frame = log
        frame = self._reject_missing(rows, frame, _USER, keys.user, "row without user", "user")
        frame = self._reject_missing(rows, frame, _PRODUCT, keys.item, "row without item", "item")
        return self._convert_times(rows, _with_scenes(frame, keys.scene_is_user))

    def _reject_missing(
        self, rows: Rows, frame: pl.DataFrame, own: str, column: str, what: str, key: str
    ) -> pl.DataFrame:
        fault = Fault(column, what, "fill them in", f"fill them in, or name another column in data.{key}")
        return self.filter.reject(rows, frame, pl.col(own).is_null(), fault)

    def _convert_times(self, rows: Rows, frame: pl.DataFrame) -> pl.DataFrame:
        keys = self.keys
        frame = frame.with_columns(tidy(frame[TIME]))
        frame = self._reject_missing(rows, frame, TIME, keys.time, "row without time", "time")
        clock = Clock(keys.time_unit, keys.time_format, keys.timezone, keys.decimal or ".")
        times = to_seconds(frame[TIME].alias(keys.time), clock)
        self.notes += times.notes
        self.warnings += times.warnings
        frame = frame.with_columns(times.seconds.alias(_SECONDS))

        def reject(bad: pl.Expr, what: str, remedy: str) -> pl.DataFrame:
            other = f"{remedy}, or name another column in data.time"
            return self.filter.reject(rows, frame, bad, Fault(keys.time, what, remedy, other, TIME))

        if times.foreign is not None:
            frame = frame.with_columns(times.foreign.alias(_FOREIGN))
            what = f"time of another unit than {times.unit}, as most are"
            frame = reject(pl.col(_FOREIGN), what, "write all in one unit")
        form = f'"{keys.time_format}"' if keys.time_format else "a number or an ISO 8601 date"
        frame = reject(pl.col(_SECONDS).is_null(), f"time that is not {form}", "set data.time_format")
        outside = (pl.col(_SECONDS) < 0) | (pl.col(_SECONDS) > int(time.time()) + _DAY)
        frame = reject(outside, "time before 1970 or in the future", "set data.time_unit or data.time_format")
        return frame.drop(TIME, _FOREIGN, strict=False)

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

    def _read_items(self, table: Table) -> _Read:
        keys = self.keys
        has_scene = self.scene_table is table
        rows = table.read([keys.item, *text_fields(keys.text), *([keys.scene] if has_scene else [])])
        frame = rows.frame.select(
            ROW,
            pl.col(keys.item).alias(_PRODUCT),
            render_text(keys.text).alias(_TEXT),
            *([pl.col(keys.scene).alias(_SCENE)] if has_scene else []),
        )
        return _Read(rows, frame)

    def _read_users(self, table: Table) -> _Read:
        rows = table.read([self.keys.user, self.keys.scene])
        frame = rows.frame.select(ROW, pl.col(self.keys.user).alias(_USER), pl.col(self.keys.scene).alias(_SCENE))
        return _Read(rows, frame)

    def _clean(self, read: _Read, key: str) -> pl.DataFrame:
        """Return the rows of the catalogue or the table of users: those with an id, one of each."""
        kind, column = ("item", self.keys.item) if key == _PRODUCT else ("user", self.keys.user)
        frame = _with_scenes(read.frame)
        frame = self._reject_missing(read.rows, frame, key, column, f"{kind} without id", kind)
        return self._merge_rows(getattr(self, read.rows.key), frame, key)

    def _merge_rows(self, table: Table, frame: pl.DataFrame, key: str) -> pl.DataFrame:
        """Return one row per id; equal rows are merged, contradicting rows are an error."""
        frame = frame.drop(ROW)
        if not frame[key].is_duplicated().any():
            return frame
        kind = "item" if key == _PRODUCT else "user"
        values = {column: name for column, name in ((_TEXT, "texts"), (_SCENE, "scenes")) if column in frame.columns}
        for column, name in values.items():
            pairs = frame.select(key, column).drop_nulls().unique()
            clash = pairs.filter(pl.col(key).is_duplicated()).sort(key, column)
            if len(clash):
                first = clash[key][0]
                found = ", ".join(quoted(value) for value in clash.filter(pl.col(key) == first)[column].head(3))
                raise InputError(
                    f"{table.name}: {kind} {quoted(first)} has several {name}: {found}; keep one row of each {kind}"
                    + (" (a scene that changes with the visit belongs in the log)" if name == "scenes" else "")
                )
        merged = frame.group_by(key, maintain_order=True).agg(pl.col(column).drop_nulls().first() for column in values)
        self.notes.append(f"{len(frame) - len(merged):,} repeated rows of {table.name} were merged.")
        return merged

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
