"""Reads what a user gives an export to serve: columns of a table, or one entry a line; errors name file and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from storage.errors import InputError

_TABLES = (".csv", ".tsv", ".parquet", ".pq")
TABLES = ".csv, .tsv and .parquet with a column of texts"
ACCEPTED = f"{TABLES}, and .txt with one text a line"


def read_rows(
    path: Path, kind: str, columns: Sequence[tuple[str, str]], optional: Sequence[str] = (), accepted: str = TABLES
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row of a table, such as "items.csv row 17", and its values by column.

    A value that is missing is ""; an optional column that the table lacks is left out.

    Args:
        path: The table.
        kind: What it is, such as "catalogue", for errors.
        columns: Each needed column, and the flag that names it.
        optional: Columns that are read where they are there.
        accepted: What is accepted, for errors.

    Raises:
        InputError: It cannot be read, holds no rows, or lacks a column.
    """
    from studies.data.files.parts import ROW
    from studies.data.files.tables import Table, hint

    if not set(path.suffixes) & set(_TABLES):
        raise InputError(f"cannot tell the format of {path}; accepted: {accepted}")
    if not path.is_file():
        raise InputError(f"{path} does not exist; name the file of the {kind}")
    with _without_prefix(f"data.{kind}: "):
        table = Table(kind, [str(path)])
        for column, flag in columns:
            if not table.has(column):
                raise InputError(f'{path} has no column "{column}"{hint(column, table.columns)}; name it with {flag}')
        wanted = dict.fromkeys([*(column for column, _ in columns), *filter(table.has, optional)])
        rows = table.read(wanted)
    values = [rows.frame[column] for column in wanted]
    for number, *found in zip(rows.frame[ROW], *values, strict=True):
        yield rows.place(number), {column: value or "" for column, value in zip(wanted, found, strict=True)}


@contextmanager
def _without_prefix(prefix: str) -> Iterator[None]:
    """Drop the name of a study file's key from errors: there is no study file here."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).removeprefix(prefix)) from error


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place of each line of a text file, such as "items.txt line 17", and the line.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                yield f"{path} line {number}", line.rstrip("\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a file that is there") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def read_texts(path: Path, kind: str, text: str, optional: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place of each row or line, and its values by column; that of the column `text` is never blank.

    Args:
        path: A table, or a .txt with one text a line.
        kind: What it is, for errors.
        text: The table's column of texts.
        optional: Columns of a table that are read where they are there.

    Raises:
        InputError: It cannot be read, holds no rows, has no such column, or a row has no text.
    """
    rows: Iterator[tuple[str, dict[str, str]]]
    if path.suffix == ".txt":
        rows = ((place, {text: line}) for place, line in read_lines(path))
    else:
        rows = read_rows(path, kind, [(text, "--text")], optional, ACCEPTED)
    empty = True
    for place, values in rows:
        if not values[text].strip():
            raise InputError(f"{place} has no text; take the row out, or describe its item")
        empty = False
        yield place, values
    if empty:
        raise InputError(f"{path} holds no texts; accepted: {ACCEPTED}")
