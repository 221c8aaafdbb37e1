"""Finds the row of a delimited file that a parser misreads or cannot read, in a second, slower pass over the file."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator

from studies.data.files.csv_files.text_stream import TextStream

_PIECE = 1 << 22
# Python's reader refuses fields of more than 128 KB.
csv.field_size_limit(1 << 30)


def first_bad_row(stream: TextStream, skipped: int, delimiter: str, width: int) -> int | None:
    """Return the first line of the first row of another width, or with a quote inside quotes that is not doubled.

    Args:
        stream: The open file.
        skipped: Lines before the header.
        delimiter: Of its columns.
        width: Number of columns.
    """
    lines = _lines(stream)
    for _ in range(skipped):
        next(lines, None)
    rows, start = csv.reader(lines, delimiter=delimiter, strict=True), 1
    try:
        for row in rows:
            if row and len(row) != width:
                return skipped + start
            start = rows.line_num + 1
    except csv.Error:
        return skipped + start
    return None


def first_long_row(stream: TextStream, quotes: bool, limit: int) -> int | None:
    """Return the first line of the first row that is longer than a limit.

    Args:
        stream: The open file.
        quotes: Whether a line break inside quotes belongs to the row.
        limit: Most bytes of a row.
    """
    line = start = 1
    size, inside = 0, False
    while piece := stream.read(_PIECE):
        for number, part in enumerate(piece.split(b"\n")):
            line += number > 0
            if number and not inside:
                start, size = line, 0
            size += len(part) + 1
            inside ^= quotes and part.count(b'"') % 2 == 1
            if size > limit:
                return start
    return None


def _lines(stream: TextStream) -> Iterator[str]:
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while piece := stream.read(_PIECE):
        *whole, rest = io.StringIO(rest + decoder.decode(piece), newline="")
        yield from whole
    yield rest
