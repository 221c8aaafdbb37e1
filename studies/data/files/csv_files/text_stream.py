"""The bytes of a delimited file on their way to a parser: unpacked, as UTF-8, watched for quotes that it misreads."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from storage.errors import InputError

# A file that unpacks to more bytes than this, and to this many times its size, was made to fill the memory.
_UNPACKED, _RATIO = 1 << 30, 100
_ESCAPED = re.compile(rb'\\(["\\])')


class TextStream:
    """A file as UTF-8 without a byte order mark, with an end that the file does not have.

    Args:
        path: The file, possibly compressed.
        encoding: Its encoding.
        delimiter: Of its columns.
        end: Bytes that follow the file's own.
        unescape: Whether to write quotes that a backslash escapes as two quotes, and an escaped backslash as one.
        check: Called after each piece that was read; raises InputError where no more may be.

    Attributes:
        odd_quotes: Whether a quote was met in the middle of a field that no other quote follows or precedes.
        escaped_quotes: Whether a backslash was met before a quote.
        refused: Why not all of the file was read; None where it was.
    """

    closed = False

    def __init__(
        self,
        path: Path,
        encoding: str,
        delimiter: str,
        end: bytes = b"",
        unescape: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._end, self._unescape, self._check = path, end, unescape, check
        # UTF-8 is not decoded here: the parser checks the columns it keeps.
        self._utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = None if self._utf8 else codecs.getincrementaldecoder(encoding)()
        self._beside = np.zeros(256, dtype=bool)
        self._beside[list(f'{delimiter}\r\n"'.encode())] = True
        self._first, self._done, self._held, self._last = True, False, b"", b"\n\n"
        self._most, self._unpacked = max(_UNPACKED, _RATIO * path.stat().st_size), 0
        self.odd_quotes = self.escaped_quotes = False
        self.refused: InputError | None = None

    def __enter__(self) -> TextStream:
        self._raw: Any = pa.input_stream(str(self._path), compression="detect")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end."""
        while not self._done:
            # A character of one byte may become three.
            data: bytes = self._raw.read(size // 4)
            self._done = not data
            self._unpacked += len(data)
            out = data if self._decoder is None else self._decoder.decode(data, final=self._done).encode()
            if self._first and out:
                out, self._first = out.removeprefix(codecs.BOM_UTF8), False
            if self._unescape:
                out = self._with_doubled_quotes(out)
            out += self._end if self._done else b""
            try:
                self._check_size()
            except InputError as error:
                # Raised through the parser, it would leave the parser's threads behind: the file ends here instead.
                self.refused, self._done = error, True
                return b""
            if out:
                self._watch(out)
                return out
        return b""

    def _check_size(self) -> None:
        if self._unpacked > self._most:
            raise InputError(
                f"{self._path} unpacks to more than {_RATIO} times its size and {_UNPACKED >> 20:,} MB, as no log or "
                "catalogue does; write it anew"
            )
        self._check()

    def _with_doubled_quotes(self, out: bytes) -> bytes:
        out = self._held + out
        # Whether a backslash at the end escapes something is seen with the next piece.
        whole = out if self._done else out.rstrip(b"\\")
        self._held = out[len(whole) :]
        return _ESCAPED.sub(lambda found: b'""' if found[1] == b'"' else b"\\", whole)

    def _watch(self, out: bytes) -> None:
        seen = self._last + out
        if b'"' in seen:
            data = np.frombuffer(seen, dtype=np.uint8)
            at = np.flatnonzero(data[1:-1] == ord('"')) + 1
            self.odd_quotes |= bool((~self._beside[data[at - 1]] & ~self._beside[data[at + 1]]).any())
            self.escaped_quotes |= bool((data[at - 1] == ord("\\")).any())
        self._last = seen[-2:]
