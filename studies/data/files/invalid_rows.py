"""Rejects rows that cannot be used, as `data.invalid` says: an error that names some of them, or a counted drop.

A fault in most rows is one of the study file, not of the rows: then the advice is never to leave them out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

from storage.errors import InputError
from studies.data.files.parts import ROW
from studies.data.files.tables import Rows


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

    Attributes:
        dropped: Number of dropped rows of the log, by fault.
        notes: Remarks on rows of the other tables that were left out.
        warnings: Remarks on faults that most rows had.
    """

    def __init__(self, invalid: Literal["refuse", "drop"]) -> None:
        self._invalid = invalid
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
        if rows.key == "interactions":
            self.dropped[fault.what] = len(broken)
        else:
            self.notes.append(f"{len(broken):,} rows of data.{rows.key} were left out: {fault.what}.")
        if most:
            self.warnings.append(
                f'{len(broken):,} of {among:,} rows of data.{rows.key} were left out (column "{fault.column}": '
                f"{fault.what}): {fault.if_most}."
            )
        return frame.filter(~bad)


def _refusal(rows: Rows, broken: pl.DataFrame, fault: Fault, among: int, most: bool) -> str:
    places = [rows.place(row) for row in broken[ROW].head(3)]
    values = [f" ({repr(value)[:60]})" for value in broken[fault.shown].head(3)] if fault.shown else [""] * 3
    first = ", ".join(place + value for place, value in zip(places, values, strict=False))
    leave_out = f'{fault.remedy}, or set data.invalid = "drop" to leave such rows out'
    return (
        f'column "{fault.column}": {fault.what} in {len(broken):,} of {among:,} rows: {first}; '
        f"{fault.if_most if most else leave_out}"
    )
