"""Splits texts into words, in training and in serving: at white space, and at every character where a script has none.

Chinese, Japanese, Thai, Lao, Khmer, Myanmar and their relatives write words without a space between them. Each of their
characters is a word here; TF-IDF counts pairs of neighbours too, which makes the overlapping pairs of Lucene's
CJKAnalyzer. Their punctuation parts words, as a space would. In all other texts, words are what `str.split` returns.
"""

from __future__ import annotations

import re
import unicodedata

# First and last character of each block, by script.
_HAN_AND_KANA = (
    "\u2e80\u2fdf\u3005\u3007\u3021\u3029\u3031\u3035\u3038\u303c\u3040\u30fa\u30fc\u312f\u31a0\u31bf\u31f0\u31ff"
    "\u3400\u4dbf\u4e00\u9fff\uf900\ufaff\U0001aff0\U0001b16f\U00020000\U0003ffff"
)
# Thai and Lao; Myanmar; Khmer; Tai Le, New Tai Lue, Khmer symbols; Tai Tham; Myanmar extended; Tai Viet.
_SOUTH_EAST_ASIA = "\u0e00\u0eff\u1000\u109f\u1780\u17ff\u1950\u19ff\u1a20\u1aaf\ua9e0\ua9ff\uaa60\uaa7f\uaa80\uaadf"
# Variation selectors, and the marks of voiced kana.
_MARKS = "\ufe00-\ufe0f\U000e0100-\U000e01ef\u3099\u309a"
# White space but for its name: the zero-width space, the Tibetan and the Ethiopic mark between words, the punctuation
# of Chinese and Japanese in its full and half width, and that of the other scripts.
_BREAKS = (
    "\u200b\u0f0b\u0f0c\u1361\u3001-\u3004\u3006\u3008-\u3020\u3030\u303d\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)


def _characters() -> re.Pattern[str]:
    """Return a pattern of one character with the marks above, below and beside it."""
    pairs = [blocks[at : at + 2] for blocks in (_HAN_AND_KANA, _SOUTH_EAST_ASIA) for at in range(0, len(blocks), 2)]
    own = [
        chr(code)
        for first, last in (_SOUTH_EAST_ASIA[at : at + 2] for at in range(0, len(_SOUTH_EAST_ASIA), 2))
        for code in range(ord(first), ord(last) + 1)
        if unicodedata.category(chr(code)).startswith("M")
    ]
    marks = _MARKS + "".join(own)
    blocks = "".join(f"{first}-{last}" for first, last in pairs)
    return re.compile(f"[{blocks}][{marks}]*")


_CHARACTER = _characters()
# No character before it is named above: texts of most scripts are not searched.
_FIRST = "\u0e00"
_BREAK = re.compile(f"[{_BREAKS}]")


def split_words(text: str) -> list[str]:
    """Return the words of a text in their order; letter case and the punctuation at a word stay."""
    if max(text, default="") < _FIRST:
        return text.split()
    return _CHARACTER.sub(r" \g<0> ", _BREAK.sub(" ", text)).split()
