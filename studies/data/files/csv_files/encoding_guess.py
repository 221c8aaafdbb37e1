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
# Between fields; none is part of a character in any of the encodings.
_BETWEEN = re.compile(rb'[,;\t"\r\n]+')
_RUN = re.compile(rb"[\x80-\xff]+")
_PIECE, _SAMPLE, _LONGEST = 1 << 16, 1 << 15, 1 << 20
# A sign inside a word, or a capital after a small letter: in Latin scripts, hardly ever beyond ASCII.
_ODD = re.compile(r"(?<=[^\W\d_])[^\x00-\x7f\w’´·\u00ad](?=[^\W\d_])|(?<=[a-zà-öø-ÿ])[À-ÖØ-ÞŠŒŽŸ]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
# Shares of implausible characters: by how much two equally plausible texts may differ, and how many a text may have in
# an encoding of single bytes, in which any bytes are some text.
_CLOSE, _PLAUSIBLE = 0.02, 0.1
# Of so many characters beyond ASCII, one may be odd.
_ODD_SHARE = 20
# Fewer characters than this are some text in each of the encodings of several bytes.
_ENOUGH = 10
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
    found = _matches(sample)
    encodings = _windows(sample, found) or _other(sample, found)
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
        while size < _SAMPLE:
            piece = stream.read(_PIECE)
            data = rest + piece
            whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            if not piece or len(data) > _LONGEST:  # the end, or a row that is too long to be read
                whole = len(data)
            lines, rest = data[:whole], data[whole:]
            new = [] if lines.isascii() else [field for field in _BETWEEN.split(lines) if not field.isascii()]
            size += sum(len(field) for field in set(new) - fields.keys())
            fields.update(dict.fromkeys(new))
            if not piece:
                break
    return b"\n".join(fields)


def _matches(sample: bytes) -> list[CharsetMatch]:
    """Return the encodings in which the text is plausible, the most plausible first."""
    found = from_bytes(sample, cp_isolation=_KNOWN)
    texts = [match for match in found if _has_lone_letters(sample) or not _is_latin(str(match))]
    return [match for match in texts if not _is_narrow_kana(str(match))]


def _near(found: list[CharsetMatch]) -> list[CharsetMatch]:
    """Return the matches that are as plausible as the best, the most plausible first."""
    return [match for match in found if match.chaos <= min(other.chaos for other in found) + _CLOSE]


def _windows(sample: bytes, found: list[CharsetMatch]) -> list[str]:
    """Return cp1252 and its rivals where its text is plausible; else nothing."""
    text, near = sample.decode(WINDOWS, "replace"), _near(found)
    if "\ufffd" in text or not _has_lone_letters(sample):
        return []
    sure = any(str(match) == text for match in near)
    odd, beyond = len(_ODD.findall(text)), len("".join(_BEYOND_ASCII.findall(text)))
    if not sure and (_ODD_SHARE * odd > beyond or any(match.encoding in _EAST_ASIAN for match in near)):
        return []
    # A few bytes are plausible in any script; beside words of ASCII they are Latin letters.
    rivals = [match for match in near if match.encoding not in _RARE and _is_latin(str(match))]
    return [WINDOWS, *(rival.encoding for rival in rivals if str(rival) != text)]


def _other(sample: bytes, found: list[CharsetMatch]) -> list[str]:
    """Return the one encoding of plausible text, and its rivals; nothing where there are none or several."""
    near = _near(found)
    east_asian = [match for match in near if match.encoding in _EAST_ASIAN]
    if east_asian:
        told = len(east_asian) == 1 and _has_words(str(east_asian[0])) and not any(_is_latin(str(m)) for m in near)
        return [east_asian[0].encoding] if told else []
    if not near or (near[0].chaos > _PLAUSIBLE and len(found) > 1):
        return []
    best, *others = near
    rivals = [other for other in others if str(other) != str(best)]
    if any(rival.coherence > best.coherence - _CLEARER for rival in rivals):
        return []
    return [match.encoding for match in (best, *rivals)]


def _has_lone_letters(sample: bytes) -> bool:
    """Return whether most bytes beyond ASCII stand alone, as in the words of Latin scripts."""
    runs = _RUN.findall(sample)
    return 2 * sum(len(run) == 1 for run in runs) > len(runs)


def _is_latin(text: str) -> bool:
    letters = {sign for sign in text if unicodedata.category(sign)[0] in "LM"} - set("ªºµ")
    return all(unicodedata.name(sign, "").startswith("LATIN") for sign in letters)


def _has_words(text: str) -> bool:
    """Return whether characters beyond ASCII are many and mostly stand side by side, as they do not by chance."""
    lengths = [len(word) for word in _BEYOND_ASCII.findall(text)]
    return sum(lengths) >= _ENOUGH and 2 * sum(length for length in lengths if length > 1) > sum(lengths)


def _is_narrow_kana(text: str) -> bool:
    """Return whether most of a text is what cp932 has for single bytes, and Japanese hardly ever writes."""
    beyond = [sign for sign in text if not sign.isascii()]
    return 2 * sum("\uff61" <= sign <= "\uff9f" for sign in beyond) > len(beyond)
