"""The one form of a text, for items in training and in serving, and for ids and scenes.

Two texts that look alike must be one item, and a text must have the same form when it is served as when it was trained
on. Python's standard library only: serving imports no table library.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

# Longest text in characters. An encoder reads 512 tokens at most; a longer text is most likely a document by mistake,
# and splitting one of 50 MB into tokens takes gigabytes.
LONGEST = 1 << 16

# Stands between the two texts of a pair, such as a query and an item. Unicode keeps this code point out of all texts.
PAIR = "\ufdd0"

# Characters from which one token can come: WordPiece reads words of up to 100 characters, and there is a space.
_PER_TOKEN = 101
# Characters that are split into tokens at a time: a tokenizer needs about 150 bytes for each.
_AT_A_TIME = 1 << 20
_SPACE = re.compile(r"\s")


def _width_forms() -> dict[int, str]:
    """Return the ordinary letter or digit of each full-width and half-width one."""
    forms = {}
    for code in range(0xFF00, 0xFFF0):
        kind, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        # Punctuation stays: the full-width comma and brackets are the ordinary ones in Chinese and Japanese.
        if kind in ("<wide>", "<narrow>") and unicodedata.category(chr(code))[0] in "LN":
            forms[code] = "".join(chr(int(part, 16)) for part in plain.split())
    return forms


_WIDTH_FORMS = _width_forms()


def normalise_text(text: str) -> str:
    """Return a text in its one form.

    Unicode's composed form (NFC), ordinary letters and digits for full-width and half-width ones, a space for every
    kind of white space, none at the ends, and at most `LONGEST` characters. Case, punctuation and repeated spaces stay:
    they are the shop's own, and tokenizers deal with them.
    """
    text = text.strip()[: 2 * LONGEST]
    if text.isascii() and text.isprintable():
        return text[:LONGEST].rstrip()
    # Half of a surrogate pair, which JSON can hold, is no character and becomes a question mark.
    valid = text.encode(errors="replace").decode().translate(_WIDTH_FORMS)
    return _SPACE.sub(" ", unicodedata.normalize("NFC", valid)).strip()[:LONGEST].rstrip()


def join_pair(text: str, pair: str) -> str:
    """Return a text and its second one as one string; `split_pair` parts them."""
    return f"{text} {PAIR} {pair}"


def split_pair(text: str) -> tuple[str, ...]:
    """Return the two texts of a pair, or the one text."""
    return tuple(part.strip() for part in text.split(PAIR, 1))


def fold_name(name: str) -> str:
    """Return what two names have in common that differ by letter case and spaces only."""
    return " ".join(name.casefold().split())


def token_batches(texts: Sequence[str], max_tokens: int, most: int) -> Iterator[list[str]]:
    """Yield the texts in batches for a tokenizer, each text cut to what `max_tokens` tokens can come from.

    A tokenizer reads all of a text before it cuts the tokens: a long one would take time and memory for nothing.

    Args:
        texts: The texts.
        max_tokens: Most tokens of a text.
        most: Most texts of a batch; fewer where texts are long.
    """
    batch: list[str] = []
    size = 0
    for text in texts:
        cut = PAIR.join(part[: max_tokens * _PER_TOKEN] for part in text.split(PAIR, 1))
        if batch and (len(batch) == most or size + len(cut) > _AT_A_TIME):
            yield batch
            batch, size = [], 0
        batch.append(cut)
        size += len(cut)
    if batch:
        yield batch
