"""Tells the encoding of a file that is not UTF-8, from the plausibility of its text in each encoding.

cp1252 is the most common one and is taken where its text is plausible. Where it is not, the only other encoding of
plausible text is taken; where there are several, the file is refused.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from charset_normalizer import CharsetMatch, from_bytes

from storage.errors import InputError, quoted

WINDOWS = "cp1252"
# Each in the widest form that programs write: gb18030 holds gbk, cp932 Shift-JIS, cp949 EUC-KR, cp950 Big5.
_EAST_ASIAN = ["gb18030", "cp950", "cp932", "euc_jp", "cp949"]
_OTHERS = ["cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874", "iso8859_2"]
_RARE = ["koi8_r", "cp866", "mac_roman", "cp850"]
_KNOWN = [*_EAST_ASIAN, WINDOWS, *_OTHERS, *_RARE]
# Fields that are not ASCII; commas and quotes are no part of a character in any of the encodings.
_FIELD = re.compile(rb'[^,;\t"\r\n]*[\x80-\xff][^,;\t"\r\n]*')
_PIECE, _SAMPLE = 1 << 16, 1 << 15
# cp1252's signs that English texts hold beside ASCII, such as 5½ and Levi’s.
_SIGNS = "’‘“”–—•…€£¥§°®©™½¼¾×·«»¿¡²³¹´\u00a0".encode(WINDOWS)
_LONE_SIGN = re.compile(rb"(?<![\x80-\xff])[" + re.escape(_SIGNS) + rb"]+(?![\x80-\xff])")
# Shares of implausible characters: by how much two equally plausible texts may differ, and how plausible one of an
# encoding of single bytes must be, in which any bytes are some text.
_CLOSE, _PLAUSIBLE = 0.02, 0.05
# So many bytes are not by chance whole characters of an encoding of several bytes.
_ENOUGH = 20
# How much more a text must look like some language than the next one.
_CLEARER = 0.1


class Guess(NamedTuple):
    """An encoding that was told from a file's text.

    Attributes:
        encoding: Its name.
        example: A field in this encoding.
        rivals: Encodings in which the text is another one and as plausible, with the same field in each.
    """

    encoding: str
    example: str
    rivals: dict[str, str]


def guess_encoding(path: Path, reason: str) -> Guess:
    """Return the encoding of a file that is not UTF-8.

    Args:
        path: The file, possibly compressed.
        reason: Why it is not UTF-8, in words.

    Raises:
        InputError: It cannot be told.
    """
    sample = _read_sample(path)
    found = list(from_bytes(sample, cp_isolation=_KNOWN))
    encodings = _windows(sample, found)
    if not encodings and (lone := _LONE_SIGN.sub(b" ", sample)).isascii():
        encodings = [WINDOWS]
    encodings = encodings or _other(sample, found) or _windows(lone, list(from_bytes(lone, cp_isolation=_KNOWN)))
    if encodings:
        return _guess(sample, *encodings)
    texts = ", ".join(f"{quoted(str(match).splitlines()[0])} ({match.encoding})" for match in _near(found)[:3])
    raise InputError(
        f"{path} is neither UTF-8 ({reason}) nor plausible cp1252{f'; it may read {texts}' if texts else ''}: set "
        "data.encoding to what it was written in"
    )


def _guess(sample: bytes, encoding: str, *rivals: str) -> Guess:
    """Return what was told, with a field that the first rival reads as another text."""
    texts = {name: sample.decode(name, "replace").split("\n") for name in (encoding, *rivals)}
    text, other = texts[encoding], texts[rivals[0]] if rivals else [""]
    place = next((row for row, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    fields = {name: lines[place].strip() for name, lines in texts.items() if place < len(lines)}
    return Guess(encoding, fields.pop(encoding), fields)


def _read_sample(path: Path) -> bytes:
    """Return the first distinct fields that are not ASCII, one a line."""
    fields: dict[bytes, None] = {}
    size, rest = 0, b""
    with pa.input_stream(str(path), compression="detect") as stream:
        while size < _SAMPLE and (piece := stream.read(_PIECE)):
            data = rest + piece
            whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            new, rest = _FIELD.findall(data[:whole]), data[whole:]
            size += sum(len(field) for field in set(new) - fields.keys())
            fields.update(dict.fromkeys(new))
        else:
            fields.update(dict.fromkeys(_FIELD.findall(rest)))
    return b"\n".join(fields)


def _near(found: list[CharsetMatch]) -> list[CharsetMatch]:
    """Return the matches that are as plausible as the best, the most plausible first."""
    return [match for match in found if match.chaos <= min(other.chaos for other in found) + _CLOSE]


def _windows(sample: bytes, found: list[CharsetMatch]) -> list[str]:
    """Return cp1252 and its rivals where no other encoding makes more plausible text; else nothing."""
    text = sample.decode(WINDOWS, "replace")
    near = _near(found)
    if not any(str(match) == text for match in near):
        return []
    # A few bytes are plausible in any script; beside words of ASCII they are Latin letters.
    rivals = [match for match in near if match.encoding not in _RARE and _is_latin(str(match))]
    return [WINDOWS, *(rival.encoding for rival in rivals if str(rival) != text)]


def _other(sample: bytes, found: list[CharsetMatch]) -> list[str]:
    """Return the one encoding of plausible text, and its rivals; nothing where there are none or several."""
    near = _near(found)
    east_asian = [match for match in near if match.encoding in _EAST_ASIAN]
    if east_asian:
        enough = sum(byte > 0x7F for byte in sample) >= _ENOUGH
        return [east_asian[0].encoding] if enough and len(east_asian) == 1 else []
    if not near or near[0].chaos > _PLAUSIBLE:
        return []
    best, *others = near
    rivals = [other for other in others if str(other) != str(best)]
    if any(rival.coherence > best.coherence - _CLEARER for rival in rivals):
        return []
    return [match.encoding for match in (best, *rivals)]


def _is_latin(text: str) -> bool:
    letters = {sign for sign in text if unicodedata.category(sign)[0] in "LM"}
    return all(unicodedata.name(sign, "").startswith("LATIN") for sign in letters)
