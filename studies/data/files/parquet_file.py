"""Reads columns of one parquet file as text; only the time keeps its type."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import parquet

from storage.errors import InputError
from studies.data.files.parts import TIME, FilePart

# Bytes of polars's reference to a text, whatever its length.
_BYTES_PER_TEXT = 16


class ParquetFile:
    """A parquet file whose schema has been read.

    Attributes:
        part: Its path and the columns in its folders' names.
        columns: Names of all its columns.
    """

    first_row = 1

    def __init__(self, part: FilePart) -> None:
        self.part = part
        self._schema = pl.scan_parquet(part.path, glob=False, hive_partitioning=False).collect_schema()
        self.columns = list(dict.fromkeys([*self._schema, *part.folders]))

    def holds_text(self, column: str) -> bool:
        """Return whether a column is of no type of numbers."""
        return column in self.part.folders or not self._schema[column].is_numeric()

    def bytes_per_row(self, columns: list[str]) -> float:
        """Return the bytes of memory that a row of some columns takes at least."""
        size = 0.0
        # What polars reads and pyarrow does not is measured by its rows alone.
        with contextlib.suppress(pa.ArrowException):
            metadata = parquet.ParquetFile(self.part.path).metadata
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            chunks = [group.column(place) for group in groups for place in range(metadata.num_columns)]
            wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
            size = sum(chunk.total_uncompressed_size for chunk in wanted) / max(1, metadata.num_rows)
        return max(size, _BYTES_PER_TEXT * len(columns))

    def scan(self, columns: list[str], time: str | None) -> pl.LazyFrame:
        """Return columns as text, and the column `time` with its own type as `TIME`.

        Raises:
            InputError: A column holds values that have no text.
        """
        source = pl.scan_parquet(self.part.path, glob=False, hive_partitioning=False)
        source = source.with_columns(pl.lit(v, pl.String).alias(k) for k, v in self.part.folders.items())
        types = dict(self._schema) | dict.fromkeys(self.part.folders, pl.String())
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
    if isinstance(dtype, pl.Decimal):
        # Databases write whole numbers with the digits of their type: 17.000000000.
        return column.cast(pl.String).str.replace(r"(\.\d*?)0+$", "${1}").str.strip_suffix(".")
    if isinstance(dtype, pl.List) and not dtype.inner.is_nested():
        return column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    if dtype.is_nested() or dtype in (pl.Object, pl.Binary):
        raise InputError(
            f'{path}: column "{name}" holds values of type {dtype}; accepted are text, numbers, dates and lists of '
            "them: convert it, or name another column"
        )
    return column.cast(pl.String)
