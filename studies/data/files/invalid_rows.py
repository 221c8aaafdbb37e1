"""Rejects rows that cannot be used, as `data.invalid` says: an error that names some of them, or a counted drop.

A fault in most rows is one of the study file, not of the rows: then the advice is never to leave them out.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import polars as pl

from storage.errors import InputError
from studies.data.files.keys import TableKeys
from studies.data.files.parts import ROW, SECONDS, TIME
from studies.data.files.tables import Rows
from studies.data.files.times import Clock, tidy, to_seconds

_FOREIGN = "#foreign"  # a column added to those of a file
_DAY = 86_400


class Fault(NamedTuple):
    """A fault that rows may have.

    Attributes:
        column: The column's name in the file.
        what: The fault, in words.
        remedy: What to do where few rows have it.
        if_most: What to do where most rows have it.
        shown: A column of the frame whose values the error shows; None to show none.
    """

    column: str
    what: str
    remedy: str
    if_most: str
    shown: str | None = None


class RowFilter:
    """Leaves out rows that have a fault, and collects what that leads to.

    Args:
        invalid: Whether a fault is an error, or its rows are dropped.
        main: The key of the study file that names the main table.

    Attributes:
        dropped: Number of dropped rows of the main table, by fault.
        notes: Remarks on rows of the other tables that were left out.
        warnings: Remarks on faults that most rows had.
    """

    def __init__(self, invalid: Literal["refuse", "drop"], main: str) -> None:
        self._invalid, self._main = invalid, main
        self.dropped: dict[str, int] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def reject(
        self, rows: Rows, frame: pl.DataFrame, bad: pl.Expr, fault: Fault, among: int | None = None
    ) -> pl.DataFrame:
        """Return the rows without the fault.

        Args:
            rows: The table.
            frame: Its rows so far.
            bad: Whether a row has the fault.
            fault: The fault.
            among: Number of rows that may have had it; by default those of `frame`.

        Raises:
            InputError: Some rows have it, and `data.invalid` refuses them.
        """
        broken = frame.filter(bad)
        if broken.is_empty():
            return frame
        among = among or len(frame)
        most = 2 * len(broken) > among
        if self._invalid == "refuse":
            raise InputError(_refusal(rows, broken, fault, among, most))
        if rows.key == self._main:
            self.dropped[fault.what] = len(broken)
        else:
            self.notes.append(f"{len(broken):,} rows of data.{rows.key} were left out: {fault.what}.")
        if most:
            self.warnings.append(
                f'{len(broken):,} of {among:,} rows of data.{rows.key} were left out (column "{fault.column}": '
                f"{fault.what}): {fault.if_most}."
            )
        return frame.filter(~bad)

    def reject_missing(
        self, rows: Rows, frame: pl.DataFrame, own: str, column: str, what: str, key: str
    ) -> pl.DataFrame:
        """Return the rows that have a value.

        Args:
            rows: The table.
            frame: Its rows so far.
            own: The column in the frame.
            column: Its name in the file.
            what: The fault, in words.
            key: The key of the study file that names the column.

        Raises:
            InputError: As for `reject`.
        """
        fault = Fault(column, what, "fill them in", f"fill them in, or name another column in data.{key}")
        return self.reject(rows, frame, pl.col(own).is_null(), fault)

    def convert_times(self, rows: Rows, frame: pl.DataFrame, column: str, keys: TableKeys) -> pl.DataFrame:
        """Return the rows with a usable time, as `SECONDS` in place of `TIME`.

        Args:
            rows: The table.
            frame: Its rows so far.
            column: The name of the times in the file.
            keys: Their form.

        Raises:
            InputError: As for `reject`, or the column holds no times.
        """
        frame = frame.with_columns(tidy(frame[TIME]))
        frame = self.reject_missing(rows, frame, TIME, column, "row without time", "time")
        clock = Clock(keys.time_unit, keys.time_format, keys.timezone, keys.decimal or ".")
        times = to_seconds(frame[TIME].alias(column), clock)
        self.notes += times.notes
        self.warnings += times.warnings
        frame = frame.with_columns(times.seconds.alias(SECONDS))

        def reject(bad: pl.Expr, what: str, remedy: str) -> pl.DataFrame:
            other = f"{remedy}, or name another column in data.time"
            return self.reject(rows, frame, bad, Fault(column, what, remedy, other, TIME))

        if times.foreign is not None:
            frame = frame.with_columns(times.foreign.alias(_FOREIGN))
            what = f"time of another unit than {times.unit}, as most are"
            frame = reject(pl.col(_FOREIGN), what, "write all in one unit")
        form = f'"{keys.time_format}"' if keys.time_format else "a number or an ISO 8601 date"
        frame = reject(pl.col(SECONDS).is_null(), f"time that is not {form}", "set data.time_format")
        outside = (pl.col(SECONDS) < 0) | (pl.col(SECONDS) > int(time.time()) + _DAY)
        frame = reject(outside, "time before 1970 or in the future", "set data.time_unit or data.time_format")
        return frame.drop(TIME, _FOREIGN, strict=False)


def _refusal(rows: Rows, broken: pl.DataFrame, fault: Fault, among: int, most: bool) -> str:
    places = [rows.place(row) for row in broken[ROW].head(3)]
    values = [f" ({repr(value)[:60]})" for value in broken[fault.shown].head(3)] if fault.shown else [""] * 3
    first = ", ".join(place + value for place, value in zip(places, values, strict=False))
    leave_out = f'{fault.remedy}, or set data.invalid = "drop" to leave such rows out'
    return (
        f'column "{fault.column}": {fault.what} in {len(broken):,} of {among:,} rows: {first}; '
        f"{fault.if_most if most else leave_out}"
    )
