"""Reads tables of parquet, CSV or RecBole files: paths and columns in, one polars frame out.

Every column is read as text, so that the id 7 of a parquet file equals the id "7" of a CSV; only times keep their type.
Each row keeps its position in its file, so that errors can name it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from storage.errors import InputError, quoted
from studies.data.files.csv_files.encoding_guess import WINDOWS, Guess
from studies.data.files.csv_files.text_file import TextFile
from studies.data.files.parquet_file import ParquetFile
from studies.data.files.parts import ROW, TIME, FilePart, find_parts
from studies.machine_memory import available_memory, refuse_beyond_memory


@dataclass(frozen=True)
class Rows:
    """Rows of a table.

    Attributes:
        key: The table's key in the study file.
        frame: The columns that were read, with `ROW` (position in all files together) and, if asked for, `TIME`.
        count: Rows of the files before any was left out.
        parts: Each file's path, the position of its first row, and the line number of that row in an editor.
    """

    key: str
    frame: pl.DataFrame
    count: int
    parts: list[tuple[Path, int, int]]

    def place(self, position: int) -> str:
        """Return the place of a row, such as "log.csv row 17", numbered as in an editor (a header is row 1)."""
        path, start, first = next(part for part in reversed(self.parts) if part[1] <= position)
        unique = sum(other.name == path.name for other, _, _ in self.parts) == 1
        return f"{path.name if unique else path} row {position - start + first}"


class Table:
    """One table of the study file; its files' columns are known, their rows not yet read."""

    def __init__(self, key: str, paths: Sequence[str], delimiter: str | None = None, encoding: str | None = None):
        """Open the files and read the names of their columns.

        Args:
            key: The table's key in the study file.
            paths: Absolute paths, as for `find_parts`.
            delimiter: Delimiter of CSV; None to detect it.
            encoding: Encoding of text; None to detect it.
        """
        self.key = key
        self._files: list[ParquetFile | _Text] = []
        for part in find_parts(key, paths):
            with _explained(part.path):
                parquet = part.format == "parquet"
                self._files.append(ParquetFile(part) if parquet else _Text(part, delimiter, encoding))

    @property
    def name(self) -> str:
        """Return the path of the file, or of the first and the number of the others."""
        first = self._files[0].part.path
        return str(first) if len(self._files) == 1 else f"{first} and {len(self._files) - 1} more"

    def has(self, column: str) -> bool:
        """Return whether any of the files has the column."""
        return any(column in file.columns for file in self._files)

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns of all files, each once."""
        return list(dict.fromkeys(name for file in self._files for name in file.columns))

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each file that is plausible cp1252, and for each whose quotes are escaped."""
        notes = [_guessed(file) for file in self._texts() if file.guess is not None and _is_windows(file.guess)]
        escaped = [file.path.name for file in self._texts() if file.escaped]
        return [*notes, *(f"{name} escapes quotes by a backslash; they were read as quotes." for name in escaped)]

    @property
    def warnings(self) -> list[str]:
        """Return a sentence for each file whose encoding may be another one than was told from its text."""
        return [_guessed(file) for file in self._texts() if file.guess is not None and not _is_windows(file.guess)]

    def _texts(self) -> list[TextFile]:
        return [file.file for file in self._files if isinstance(file, _Text)]

    def holds_text(self, column: str) -> bool:
        """Return whether the column is text in any of the files, and not of a type of numbers."""
        return any(file.holds_text(column) for file in self._files if column in file.columns)

    def require(self, columns: Iterable[str], key: str) -> None:
        """Check that every file has the columns.

        Args:
            columns: Names of the columns.
            key: Key of the study file that names them, for errors.

        Raises:
            InputError: A file lacks one; the message names the file, the nearest column and all columns.
        """
        for column in columns:
            for file in self._files:
                if column not in file.columns:
                    remedy = f"correct data.{key}" + (" or data.delimiter" if len(file.columns) == 1 else "")
                    raise InputError(
                        f'data.{key}: {file.part.path} has no column "{column}"{hint(column, file.columns)}; {remedy}'
                    )

    def read(self, columns: Iterable[str], time: str | None = None, keep: pl.Expr | None = None) -> Rows:
        """Read columns as text.

        Args:
            columns: Names of the columns.
            time: A column to read with its own type too, as `TIME`.
            keep: Condition on these columns that a row must meet; all rows without it.

        Raises:
            InputError: A file is broken or larger than the memory, all are empty, or the files' times have different
                types.
        """
        wanted = list(dict.fromkeys(columns))
        frames: list[pl.DataFrame] = []
        parts: list[tuple[Path, int, int]] = []
        count = 0
        for file in self._files:
            with _explained(file.part.path):
                lazy = file.scan(wanted, time)
                length: int = lazy.select(pl.len()).collect().item()
                lazy = lazy.with_row_index(ROW, offset=count)
                if isinstance(file, ParquetFile):
                    _check_memory(file, wanted, length, None if keep is None else lazy.filter(keep))
                frames.append((lazy if keep is None else lazy.filter(keep)).collect(engine="streaming"))
            parts.append((file.part.path, count, file.first_row))
            count += length
        if count == 0:
            raise InputError(f"data.{self.key}: {self.name} holds a header but no rows; give a file with rows")
        if time is not None:
            _check_times([frame[TIME].dtype for frame in frames], [path for path, _, _ in parts], time)
        return Rows(self.key, pl.concat(frames, how="vertical_relaxed"), count, parts)


def _is_windows(guess: Guess) -> bool:
    return guess.encoding == WINDOWS and not guess.rivals


def _guessed(file: TextFile) -> str:
    """Return how a file's encoding was told."""
    assert file.guess is not None
    encoding, example, rivals = file.guess
    others = "".join(f", which {rival} reads as {quoted(text)}" for rival, text in list(rivals.items())[:1])
    read = f"{file.path.name} is not UTF-8 and was read as {encoding}, such as {quoted(example)}{others}"
    return f"{read}; set data.encoding if that is not its text."


def check_log(named: Mapping[str, str], log: Table) -> None:
    """Check that the log has the columns without which it is none.

    Args:
        named: The study file's keys with the names of the columns.
        log: The log.

    Raises:
        InputError: A column is missing; where none has a similar name, the message says what a log is.
    """
    missing = {key: name for key, name in named.items() if not log.has(name)}
    if not missing or any(_nearest(name, log.columns) for name in missing.values()):
        for key, name in named.items():
            log.require([name], key)
        return
    lacking = ", ".join(f'"{name}" (data.{key})' for key, name in missing.items())
    keys = ", ".join(f"data.{key}" for key in missing) + (" or data.delimiter" if len(log.columns) == 1 else "")
    raise InputError(
        f"data.interactions: {log.name} has no column {lacking}{hint('', log.columns)}; correct {keys}. A ranking "
        "study needs a log of interactions, with a user, an item and a time in every row; of a file of texts and "
        'labels, make a study with task = "classification" and data.rows (docs/data.md)'
    )


def _nearest(column: str, columns: Sequence[str]) -> list[str]:
    lower = {name.lower(): quoted(name)[1:-1] for name in columns}
    return [lower[word] for word in difflib.get_close_matches(column.lower(), lower, n=2, cutoff=0.6)]


def hint(column: str, columns: Sequence[str]) -> str:
    """Return the end of an error about a missing column: the nearest ones, and all of them."""
    near = _nearest(column, columns)
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    shown = ", ".join(quoted(name)[1:-1] for name in columns[:20]) + more
    return (f"; did you mean {' or '.join(near)}?" if near else "") + f" (its columns: {shown})"


def _check_memory(file: ParquetFile, columns: list[str], rows: int, kept: pl.LazyFrame | None) -> None:
    """Refuse a file whose rows do not fit into memory; few bytes of parquet may hold any number of equal rows."""
    available, bytes_per_row = available_memory(), file.bytes_per_row(columns)
    if kept is not None and rows * bytes_per_row > available:
        rows = kept.select(pl.len()).collect(engine="streaming").item()
    refuse_beyond_memory(file.part.path, int(rows * bytes_per_row), available)


def _check_times(types: list[pl.DataType], paths: list[Path], column: str) -> None:
    def kind(dtype: pl.DataType) -> object:
        if dtype.is_numeric():
            return "number"
        return getattr(dtype, "time_zone", None) if dtype.is_temporal() else str(dtype)

    first = next((place for place, dtype in enumerate(types) if dtype != pl.Null), 0)
    for dtype, path in zip(types, paths, strict=True):
        if kind(dtype) != kind(types[first]) and dtype != pl.Null:
            raise InputError(
                f'column "{column}" is {types[first]} in {paths[first]} and {dtype} in {path}; write both with the '
                "same type"
            )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        system = error.strerror if isinstance(error, OSError) else None
        raise InputError(
            f"{path} cannot be read ({system or str(error).partition(chr(10))[0]}); it may be cut short or of another "
            "format than its name says: write it anew"
        ) from error


class _Text:
    def __init__(self, part: FilePart, delimiter: str | None, encoding: str | None) -> None:
        self.part = part
        self.file = TextFile(part.path, part.format.startswith("RecBole"), delimiter, encoding)
        self.columns = list(dict.fromkeys([*filter(None, self.file.columns), *part.folders]))
        self.first_row = self.file.skipped + 2

    def holds_text(self, column: str) -> bool:
        return True

    def scan(self, columns: list[str], time: str | None) -> pl.LazyFrame:
        folders = self.part.folders
        stored = [name for name in dict.fromkeys([*columns, *([time] if time else [])]) if name not in folders]
        frame = self.file.read(stored).with_columns(pl.lit(v, pl.String).alias(k) for k, v in folders.items())
        return frame.lazy().select(*columns, *([pl.col(time).alias(TIME)] if time else []))
