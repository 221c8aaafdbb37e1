"""Reads one CSV or RecBole file: detects its encoding, delimiter and header, and reads its rows strictly.

A row of another width than the header, bytes outside the encoding and an unclosed quote are errors: skipping them would
lose rows without counting them.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from storage.errors import InputError

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = ",;\t|"
_HEAD = 1 << 18
_BLOCK = 1 << 24
# A row appended after the file's own. If the parser does not return it, an unclosed quote has swallowed it.
_END = "#end"


class TextFile:
    """A file of delimited columns whose header has been read.

    Attributes:
        columns: Names of the columns, in order; "" where the header leaves one out.
        encoding: Encoding of the file.
        guessed: Whether the encoding is a guess.
    """

    def __init__(self, path: Path, recbole: bool, delimiter: str | None = None, encoding: str | None = None) -> None:
        """Read the header.

        Args:
            path: The file, possibly compressed.
            recbole: Whether it is one of RecBole's atomic files: tabs, no quotes, a type after each column's name.
            delimiter: Delimiter of the columns; None to detect it.
            encoding: Encoding of the file; None to detect it.

        Raises:
            InputError: The file is empty or not text, or two columns have one name.
        """
        self.path = path
        self.guessed = False
        self._quotes = not recbole
        with pa.input_stream(str(path), compression="detect") as stream:
            self._head: bytes = stream.read(_HEAD)
        if not self._head.strip():
            raise InputError(f"{path} is empty; give a file with a header and rows")
        self._given = encoding is not None
        self.encoding = encoding or next((name for bom, name in _BOMS if self._head.startswith(bom)), "utf-8")
        text = self._decoded()
        self._delimiter = "\t" if recbole else delimiter or _sniff(text, cut=len(self._head) == _HEAD)
        self._blank = next(n for n, line in enumerate(io.StringIO(text, newline="")) if line.strip("\r\n"))
        names = [name.strip() for name in self._header(text)]
        self.columns = [name.rpartition(":")[0] or name for name in names] if recbole else names
        for name in filter(None, self.columns):
            if (count := self.columns.count(name)) > 1:
                raise InputError(f'{path} has {count} columns named "{name}"; rename all but one of them')

    def read(self, columns: list[str]) -> pl.DataFrame:
        """Read some columns as text, with empty fields as null.

        Raises:
            InputError: A row has another width than the header, a quote is not closed, or a byte is not in the
                encoding.
        """
        try:
            table = self._parse(columns)
        except UnicodeDecodeError as error:
            self._fall_back(f"{error.reason}, byte {error.object[error.start]:#04x}")
            table = self._parse(columns)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise self._ragged(columns, error) from error
            self._fall_back("a byte sequence is none of its characters")
            table = self._parse(columns)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        rows = frame.height - 1
        if rows < 0 or frame.row(rows) != (_END,) * frame.width:
            raise InputError(
                f"{self.path}: a quote is opened in row {rows + 2} or before and never closed; close it, or double the "
                'quotes inside a quoted field ("")'
            )
        return frame.head(rows).select(_without_zeros(column) for column in frame.head(rows))

    def _decoded(self) -> str:
        try:
            decoder = codecs.getincrementaldecoder(self.encoding)()
            text = decoder.decode(self._head, final=len(self._head) < _HEAD)
        except UnicodeDecodeError as error:
            self._fall_back(f"{error.reason}, byte {error.object[error.start]:#04x}")
            return self._decoded()
        if "\0" in text:
            raise InputError(
                f"{self.path} holds zero bytes: it is UTF-16 without a mark, or no text at all; set data.encoding = "
                '"utf-16-le", or give CSV'
            )
        return text.removeprefix("\ufeff")

    def _fall_back(self, reason: str) -> None:
        """Switch to cp1252, the most common encoding of text that is not UTF-8.

        Raises:
            InputError: The encoding is given, is known from the file's first bytes, or is UTF-8 but for a few bytes.
        """
        signs = [sign for sign in self._head.decode("utf-8", "replace") if sign > "\x7f"]
        mostly_utf8 = signs.count("\ufffd") * 2 < len(signs)
        if self._given or self.encoding != "utf-8" or mostly_utf8:
            raise InputError(
                f"{self.path} is not valid {self.encoding} ({reason}); repair it, or set data.encoding to what it was "
                'written in, such as "latin-1"'
            )
        self.encoding, self.guessed = "cp1252", True

    def _header(self, text: str) -> list[str]:
        return next(row for row in _rows(text, self._delimiter, self._quotes) if row)

    def _parse(self, columns: list[str], threads: bool = True, on_bad: Any = None) -> pa.Table:
        width = len(self.columns)
        # Columns go by position: names may be padded, typed or empty.
        names = [str(position) for position in range(width)]
        wanted = [str(self.columns.index(column)) for column in columns]
        end = "\n" + self._delimiter.join([_END] * width) + "\n"
        with pa.input_stream(str(self.path), compression="detect") as raw:
            table = pa_csv.read_csv(
                _Stream(raw, self.encoding, end.encode()),
                pa_csv.ReadOptions(
                    use_threads=threads,
                    block_size=_BLOCK,
                    skip_rows=self._blank,
                    column_names=names,
                    skip_rows_after_names=1,
                ),
                pa_csv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char='"' if self._quotes else False,
                    newlines_in_values=self._quotes,
                    invalid_row_handler=on_bad,
                ),
                pa_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        return table.rename_columns(columns)

    def _ragged(self, columns: list[str], error: Exception) -> InputError:
        """Return the error that names the first bad row; the parser tells it only when it reads without threads."""
        bad: list[Any] = []

        def on_bad(row: Any) -> str:
            bad.append(row)
            return "error"

        with contextlib.suppress(pa.ArrowInvalid):
            self._parse(columns, threads=False, on_bad=on_bad)
        if not bad:
            return InputError(f"{self.path} cannot be read: {str(error).partition(chr(10))[0]}; write it anew")
        return InputError(
            f"{self.path} row {bad[0].number} has {bad[0].actual_columns} columns, the header has "
            f"{bad[0].expected_columns}; quote fields that hold a delimiter or a line break, or set data.delimiter"
        )


class _Stream:
    """The parser's input: the file as UTF-8, then the end row."""

    closed = False

    def __init__(self, raw: Any, encoding: str, end: bytes) -> None:
        self._raw, self._end, self._done = raw, end, False
        # UTF-8 is not decoded here: the parser checks the columns it keeps.
        utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = None if utf8 else codecs.getincrementaldecoder(encoding)()

    def read(self, size: int) -> bytes:
        while not self._done:
            # A character of one byte may become three.
            data: bytes = self._raw.read(size // 4)
            self._done = not data
            out = data if self._decoder is None else self._decoder.decode(data, final=self._done).encode()
            out += self._end if self._done else b""
            if out:
                return out
        return b""


def _rows(text: str, delimiter: str, quotes: bool = True) -> Any:
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)


def _sniff(text: str, cut: bool) -> str:
    """Return the delimiter that gives the first rows equal widths; of several, the one of the largest width."""

    def rank(delimiter: str) -> tuple[bool, int]:
        try:
            rows = [row for row in islice(_rows(text, delimiter), 200) if row]
        except csv.Error:
            return False, 0
        whole = rows[:-1] if cut and len(rows) > 1 else rows
        width = len(whole[0])
        return width > 1 and all(len(row) == width for row in whole), width

    return max(_DELIMITERS, key=rank)


def _without_zeros(column: pl.Series) -> pl.Series:
    """Return whole numbers without ".0", which pandas writes where an integer column has gaps."""
    values = column.drop_nulls()
    if len(values) == 0 or not values[0].endswith(".0") or not values.str.contains(r"^-?\d+\.0$").all():
        return column
    return column.str.strip_suffix(".0")
