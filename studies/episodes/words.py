"""Splits texts into words, in training and in serving: at white space, and at every character where a script has none.

Chinese, Japanese, Thai, Lao, Khmer, Myanmar and their relatives write words without a space between them. Each of their
characters is a word here; TF-IDF counts pairs of neighbours too, which makes the overlapping pairs of Lucene's
CJKAnalyzer. Their punctuation parts words, as a space would. In all other texts, words are what `str.split` returns.
"""

from __future__ import annotations

import re
import unicodedata

# First and last character of each block: radicals, marks and numerals of Han; kana and Bopomofo; Han.
_HAN_AND_KANA = (
    (0x2E80, 0x2FDF), (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303C),
    (0x3041, 0x3096), (0x309B, 0x30FA), (0x30FC, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip
# Thai and Lao; Myanmar; Khmer; Tai Le, New Tai Lue and signs of Khmer; Tai Tham; more of Myanmar; Tai Viet.
_SOUTH_EAST_ASIA = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),
)  # fmt: skip
# Marks that follow a character of the first scripts: of voiced kana, and variation selectors.
_MARKS = ((0x3099, 0x309A), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
# What parts words beside white space: the zero-width space, the marks between words of Tibetan and Ethiopic, the
# punctuation of Chinese and Japanese, in full width and in half.
_BREAKS = (
    (0x200B, 0x200B), (0x0F0B, 0x0F0C), (0x1361, 0x1361), (0x3001, 0x3004), (0x3006, 0x3006), (0x3008, 0x3020),
    (0x3030, 0x3030), (0x303D, 0x303D), (0x30FB, 0x30FB), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40),
    (0xFF5B, 0xFF65),
)  # fmt: skip
# No character below it is in any of these: texts of most scripts are not searched.
_FIRST = chr(0x0E00)


def _marks_within(blocks: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return the vowels and tones above, below and beside a letter."""
    codes = (code for first, last in blocks for code in range(first, last + 1))
    return tuple((code, code) for code in codes if unicodedata.category(chr(code)).startswith("M"))


def _one_of(*blocks: tuple[int, int]) -> str:
    """Return the pattern of a character of these blocks."""
    return "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in blocks) + "]"


_CHARACTER = re.compile(
    _one_of(*_HAN_AND_KANA, *_SOUTH_EAST_ASIA) + _one_of(*_MARKS, *_marks_within(_SOUTH_EAST_ASIA)) + "*"
)
_BREAK = re.compile(_one_of(*_BREAKS))


def split_words(text: str) -> list[str]:
    """Return the words of a text in their order; letter case and the punctuation at a word stay."""
    if max(text, default="") < _FIRST:
        return text.split()
    return _CHARACTER.sub(r" \g<0> ", _BREAK.sub(" ", text)).split()
