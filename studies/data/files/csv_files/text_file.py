"""Reads one CSV or RecBole file: detects its encoding, delimiter and header, and reads its rows strictly.

A row of another width than the header, bytes outside the encoding and an unclosed quote are errors: skipping them would
lose rows without counting them.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from storage.errors import InputError, quoted
from studies.data.files.csv_files.encoding_guess import Guess, guess_encoding
from studies.data.files.csv_files.row_faults import first_bad_row, first_long_row
from studies.data.files.csv_files.text_stream import TextStream
from studies.machine_memory import memory_guard

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
# Longest row: the stream fills a quarter of a block at a time, and a row may not lie in three of the pieces.
_LONGEST_ROW = _BLOCK // 4
# The first line by which spreadsheets tell each other the delimiter.
_SEPARATOR = re.compile(r'^"?sep=(.)"?$', re.IGNORECASE)
# A row appended after the file's own. If the parser does not return it, an unclosed quote has swallowed it.
_END = "#end"


class TextFile:
    """A file of delimited columns whose header has been read.

    Attributes:
        columns: Names of the columns, in order; "" where the header leaves one out.
        skipped: Lines before the header: blank ones, and one that tells the delimiter.
        encoding: Encoding of the file.
        guess: How the encoding was told from the text; None where it was given or is UTF-8.
        escaped: Whether backslashes that escape quotes were found.
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
        self.guess: Guess | None = None
        self.escaped = False
        self._quotes = not recbole
        with pa.input_stream(str(path), compression="detect") as stream:
            self._head: bytes = stream.read(_HEAD)
        if not self._head.strip():
            raise InputError(f"{path} is empty; give a file with a header and rows")
        self._given = encoding is not None
        self.encoding = encoding or next((name for bom, name in _BOMS if self._head.startswith(bom)), "utf-8")
        lines = list(io.StringIO(self._decoded(), newline=""))
        self.skipped = _blank_lines(lines)
        if not recbole and (told := _SEPARATOR.match(lines[self.skipped].strip("\r\n"))):
            delimiter = delimiter or told[1]
            self.skipped += 1 + _blank_lines(lines[self.skipped + 1 :])
        text = "".join(lines[self.skipped :])
        if not text:
            raise InputError(f"{path} is empty; give a file with a header and rows")
        self._delimiter = "\t" if recbole else delimiter or _sniff(text, cut=len(self._head) == _HEAD)
        names = [name.strip() for name in self._header(text)]
        self.columns = [name.rpartition(":")[0] or name for name in names] if recbole else names
        for name in filter(None, self.columns):
            if (count := self.columns.count(name)) > 1:
                raise InputError(f"{path} has {count} columns named {quoted(name)}; rename all but one of them")

    def read(self, columns: list[str]) -> pl.DataFrame:
        """Read some columns as text, with empty fields as null.

        Raises:
            InputError: A row has another width than the header or is too long, a quote is not closed or not doubled, a
                byte is not in the encoding, or the memory is too small.
        """
        try:
            table = self._parse(columns)
        except UnicodeError as error:
            self._fall_back(_reason(error))
            return self.read(columns)
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                self._fall_back("a byte sequence is none of its characters")
            elif not self._escapes_quotes():
                raise self._unreadable(columns, error) from error
            return self.read(columns)
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        rows = frame.height - 1
        closed = rows >= 0 and frame.row(rows) == (_END,) * frame.width
        odd = self._quotes and self._stream.odd_quotes
        if (odd or not closed) and self._escapes_quotes():
            return self.read(columns)
        if not closed:
            raise InputError(
                f"{self.path}: a quote is opened in row {rows + 2} or before and never closed; close it, or double the "
                'quotes inside a quoted field ("")'
            )
        if odd and (row := self._bad_row(self.escaped)) is not None:
            raise InputError(
                f'{self.path} row {row} has a quote inside a quoted field; double it (""), as CSV writers do, or leave '
                "the field unquoted"
            )
        return frame.head(rows).select(_without_zeros(column) for column in frame.head(rows))

    def _escapes_quotes(self) -> bool:
        """Return whether the file, which cannot be read as CSV, can be read with backslashes that escape quotes."""
        if self.escaped or not self._stream.escaped_quotes or not self._quotes:
            return False
        self.escaped = self._bad_row(False) is not None and self._bad_row(True) is None
        return self.escaped

    def _bad_row(self, unescape: bool) -> int | None:
        with TextStream(self.path, self.encoding, self._delimiter, unescape=unescape) as stream:
            return first_bad_row(stream, self.skipped, self._delimiter, len(self.columns))

    def _decoded(self) -> str:
        try:
            decoder = codecs.getincrementaldecoder(self.encoding)()
            text = decoder.decode(self._head, final=len(self._head) < _HEAD)
        except UnicodeError as error:
            self._fall_back(_reason(error))
            return self._decoded()
        if "\0" in text:
            raise InputError(
                f"{self.path} holds zero bytes: it is UTF-16 without a mark, or no text at all; set data.encoding = "
                '"utf-16-le", or give CSV'
            )
        return text.removeprefix("\ufeff")

    def _fall_back(self, reason: str) -> None:
        """Switch to the encoding in which the text is plausible.

        Raises:
            InputError: The encoding is given, is known from the file's first bytes, or is UTF-8 but for a few bytes; or
                it cannot be told.
        """
        signs = [sign for sign in self._head.decode("utf-8", "replace") if sign > "\x7f"]
        mostly_utf8 = signs.count("\ufffd") * 2 < len(signs)
        if self._given or self.encoding != "utf-8" or mostly_utf8:
            raise InputError(
                f"{self.path} is not valid {self.encoding} ({reason}); repair it, or set data.encoding to what it was "
                'written in, such as "latin-1"'
            )
        self.guess = guess_encoding(self.path, reason)
        self.encoding = self.guess.encoding

    def _header(self, text: str) -> list[str]:
        return next(row for row in _rows(text, self._delimiter, self._quotes) if row)

    def _parse(self, columns: list[str], threads: bool = True, on_bad: Any = None) -> pa.Table:
        end = ("\n" + self._delimiter.join([_END] * len(self.columns)) + "\n").encode()
        guard = memory_guard(self.path, pa.total_allocated_bytes)
        self._stream = TextStream(self.path, self.encoding, self._delimiter, end, self.escaped, guard)
        with self._stream:
            try:
                table = pa_csv.read_csv(self._stream, *self._options(columns, threads, on_bad))
            except pa.ArrowInvalid as error:
                raise self._stream.refused or error from error
        if self._stream.refused is not None:
            raise self._stream.refused
        guard()  # of a file that was read in whole before it was parsed
        return table.rename_columns(columns)

    def _options(
        self, columns: list[str], threads: bool, on_bad: Any
    ) -> tuple[pa_csv.ReadOptions, pa_csv.ParseOptions, pa_csv.ConvertOptions]:
        # Columns go by position: names may be padded, typed or empty.
        names = [str(position) for position in range(len(self.columns))]
        wanted = [str(self.columns.index(column)) for column in columns]
        return (
            pa_csv.ReadOptions(
                use_threads=threads,
                block_size=_BLOCK,
                skip_rows=self.skipped,
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

    def _unreadable(self, columns: list[str], error: Exception) -> InputError:
        """Return the error that names the first bad row; the parser tells it only when it reads without threads."""
        if "straddling" in str(error):
            with TextStream(self.path, self.encoding, self._delimiter) as stream:
                row = first_long_row(stream, self._quotes, _LONGEST_ROW)
            return InputError(
                f"{self.path} row {row or 2} is longer than {_LONGEST_ROW >> 20} MB: it holds a huge cell, or a quote "
                "that is opened and never closed; shorten the cell, or close the quote"
            )
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


def _reason(error: UnicodeError) -> str:
    """Return what is wrong with the bytes, in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"{error.reason}, byte {error.object[error.start]:#04x}"
    return str(error)


def _blank_lines(lines: list[str]) -> int:
    """Return the number of blank lines at the beginning."""
    return next((number for number, line in enumerate(lines) if line.strip("\r\n")), len(lines))


def _rows(text: str, delimiter: str, quotes: bool = True) -> Any:
    lines = io.StringIO(text, newline="")
    return csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)


def _sniff(text: str, cut: bool) -> str:
    """Return the delimiter that gives the first rows equal widths; of several, the one of the largest width."""
    # A backslash may escape the quotes, or be a letter.
    forms = [text, text.replace('\\"', '""')] if '\\"' in text else [text]

    def rank(delimiter: str) -> tuple[bool, int]:
        return max(rank_form(form, delimiter) for form in forms)

    def rank_form(text: str, delimiter: str) -> tuple[bool, int]:
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
