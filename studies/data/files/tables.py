"""Reads tables of parquet, CSV or RecBole files: paths and columns in, one polars frame out.

Every column is read as text, so that the id 7 of a parquet file equals the id "7" of a CSV; only times keep their type.
Each row keeps its position in its file, so that errors can name it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from storage.errors import InputError
from studies.data.files.csv_file import TextFile

# Columns added to those of a file; the "#" keeps them apart from the user's names.
ROW, TIME = "#row", "#time"

ACCEPTED = ".parquet, .pq, .csv, .tsv, .txt, .inter, .item, .user, and text also with .gz, .zst or .bz2"
_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".txt")
_RECBOLE = (".inter", ".item", ".user")
_COMPRESSED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class FilePart:
    """One file of a table: its path, its format, and the columns in the names of its folders (`store=1`)."""

    path: Path
    format: str
    folders: dict[str, str | None] = field(default_factory=dict)


def find_parts(key: str, paths: Sequence[str]) -> list[FilePart]:
    """Return the files of a table; folders are searched recursively, in sorted order.

    Args:
        key: The study file's key, for errors.
        paths: Absolute paths of files and folders. Hidden files and those that start with "_" are left out.

    Raises:
        InputError: A path does not exist, a folder holds no file, or the files have several formats.
    """
    found: dict[Path, FilePart] = {}
    for part in (part for path in paths for part in _parts_at(key, Path(path))):
        # A file that is given twice, by its path and by its folder's, is read once.
        found[part.path] = max(found.get(part.path, part), part, key=lambda same: len(same.folders))
    parts = list(found.values())
    for part in parts[1:]:
        if part.format != parts[0].format:
            raise InputError(
                f"data.{key} mixes formats: {parts[0].path} is {parts[0].format}, {part.path} is {part.format}; "
                "name files of one format"
            )
    return parts


def _parts_at(key: str, path: Path) -> list[FilePart]:
    if not path.exists():
        raise InputError(
            f"data.{key}: {path} does not exist; relative paths are looked up from the study file's folder: "
            "correct the path"
        )
    if not path.is_dir():
        return [FilePart(path, _format_of(key, path))]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    shown = [file for file in files if not any(name.startswith((".", "_")) for name in file.relative_to(path).parts)]
    if not shown:
        raise InputError(f"data.{key}: the folder {path} holds no files; accepted are {ACCEPTED}: name another folder")
    return [FilePart(file, _format_of(key, file), _folders(file.relative_to(path))) for file in shown]


def _format_of(key: str, path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PARQUET:
        return "parquet"
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in _CSV:
        return "CSV"
    if last in _RECBOLE:
        return f"RecBole {last}"
    raise InputError(f"data.{key}: cannot tell the format of {path}; accepted are {ACCEPTED}: rename or convert it")


def _folders(relative: Path) -> dict[str, str | None]:
    pairs = (name.partition("=") for name in relative.parts[:-1] if "=" in name)
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, _, value in pairs}


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
        self._files: list[_Parquet | _Text] = []
        for part in find_parts(key, paths):
            with _explained(part.path):
                parquet = part.format == "parquet"
                self._files.append(_Parquet(part) if parquet else _Text(part, delimiter, encoding))

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
        """Return a sentence for each file whose encoding was guessed."""
        guessed = [file.part.path.name for file in self._files if isinstance(file, _Text) and file.file.guessed]
        return [f"{name} is not UTF-8 and was read as cp1252; data.encoding says otherwise." for name in guessed]

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
            InputError: A file is broken, all are empty, or the files' times have different types.
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
                frames.append((lazy if keep is None else lazy.filter(keep)).collect(engine="streaming"))
            parts.append((file.part.path, count, file.first_row))
            count += length
        if count == 0:
            raise InputError(f"data.{self.key}: {self.name} holds a header but no rows; give a file with rows")
        if time is not None:
            _check_times([frame[TIME].dtype for frame in frames], [path for path, _, _ in parts], time)
        return Rows(self.key, pl.concat(frames, how="vertical_relaxed"), count, parts)


def hint(column: str, columns: Sequence[str]) -> str:
    """Return the end of an error about a missing column: the nearest ones, and all of them."""
    lower = {name.lower(): name for name in columns}
    near = [lower[word] for word in difflib.get_close_matches(column.lower(), lower, n=2, cutoff=0.6)]
    shown = ", ".join(columns[:20]) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
    return (f"; did you mean {' or '.join(near)}?" if near else "") + f" (its columns: {shown})"


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


class _Parquet:
    first_row = 1

    def __init__(self, part: FilePart) -> None:
        self.part = part
        self.schema = pl.scan_parquet(part.path, glob=False, hive_partitioning=False).collect_schema()
        self.columns = list(dict.fromkeys([*self.schema, *part.folders]))

    def scan(self, columns: list[str], time: str | None) -> pl.LazyFrame:
        source = pl.scan_parquet(self.part.path, glob=False, hive_partitioning=False)
        source = source.with_columns(pl.lit(v, pl.String).alias(k) for k, v in self.part.folders.items())
        types = dict(self.schema) | dict.fromkeys(self.part.folders, pl.String())
        real = [name for name in columns if types[name].is_float()]
        # pandas writes an integer column with gaps as floats: 12.0 means the id 12.
        whole = source.select(_is_whole(pl.col(n).fill_nan(None)) for n in real).collect() if real else None
        chosen = [
            _as_text(self.part.path, name, types[name], whole is not None and name in whole and whole[name].item())
            for name in columns
        ]
        return source.select(*chosen, *([pl.col(time).alias(TIME)] if time is not None else []))


def _is_whole(number: pl.Expr) -> pl.Expr:
    return ((number % 1 == 0) & (number.abs() < 1 << 63)).all()


def _as_text(path: Path, name: str, dtype: pl.DataType, whole: bool) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():
        column = column.fill_nan(None)
        return (column.cast(pl.Int64) if whole else column).cast(pl.String)
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        return column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
        raise InputError(
            f'{path}: column "{name}" holds values of type {dtype}; accepted are text, numbers, dates and lists of '
            "them: convert it, or name another column"
        )
    return column.cast(pl.String)


class _Text:
    first_row = 2

    def __init__(self, part: FilePart, delimiter: str | None, encoding: str | None) -> None:
        self.part = part
        self.file = TextFile(part.path, part.format.startswith("RecBole"), delimiter, encoding)
        self.columns = list(dict.fromkeys([*filter(None, self.file.columns), *part.folders]))

    def scan(self, columns: list[str], time: str | None) -> pl.LazyFrame:
        folders = self.part.folders
        stored = [name for name in dict.fromkeys([*columns, *([time] if time else [])]) if name not in folders]
        frame = self.file.read(stored).with_columns(pl.lit(v, pl.String).alias(k) for k, v in folders.items())
        return frame.lazy().select(*columns, *([pl.col(time).alias(TIME)] if time else []))
