"""Whether an encoder can read a catalogue: pieces unknown to it, words read letter by letter, texts that become equal.

An encoder reads any text without an error. Of a language that is not in its vocabulary, little or nothing is left:
words become the unknown token or single letters, and articles that differ in such a word get one vector.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from studies.config.definition import TeacherSection
from studies.data.dataset import Ints
from studies.model.encoder import Ragged, locate, tokenize
from studies.model.pretrained.reading import quiet_transformers
from studies.model.pretrained.sentence_files import pooling_and_prefix
from studies.progress import Progress

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One piece in ten: of titles of five words, every other one loses a word. Rare signs and brands are below 2 %.
MANY_UNKNOWN = 0.1
# Titles of an alphabet that the vocabulary has words of are below a quarter, others above 0.8.
MOSTLY = 0.5
# One text in twenty. Of equal texts, those that differ in letter case or accents alone are not counted.
MANY_EQUAL = 0.05
# First and last of the characters that every vocabulary reads one at a time, in codes or as whole words: ASCII, Han and
# kana, the syllables of Hangul.
_SINGLE = ((0x0, 0x7F), (0x2E80, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF))
# Fewest such letters of a text: a sign such as those of ohm and micro is a letter, and no word.
_WORD = 3
# What marks a piece as the beginning or the inside of a word, in WordPiece and Unigram.
_PIECE_MARKS = ("##", "\u2581")
_UNKNOWN_TOKENS = ("[UNK]", "<unk>")

BUNDLED = "minilm"
OTHER_ENCODERS = (
    '"BAAI/bge-small-zh-v1.5" for Chinese, "intfloat/multilingual-e5-small" for a hundred others, with '
    'teacher.prefix = "query: " (docs/data.md)'
)


@dataclass(frozen=True)
class TextCoverage:
    """How much an encoder reads of some texts.

    Attributes:
        texts: Number of distinct texts.
        unknown: Share of the pieces, special tokens aside, that are the unknown token.
        spelled: Share of the known letters that are a piece each, though words of their script have several.
        equal_unknown: Texts with an unknown piece and with the tokens of another text.
        equal_cut: Texts without one that reach `max_tokens` and have the tokens of another text.
        full: Texts that reach `max_tokens`.
        max_tokens: Most tokens of a text.
    """

    texts: int
    unknown: float
    spelled: float
    equal_unknown: int
    equal_cut: int
    full: int
    max_tokens: int

    def warnings(self, encoder: str) -> list[str]:
        """Return what an encoder loses of a study's texts, with the remedy; empty where that is little.

        Args:
            encoder: Its name in the study file.
        """
        many_equal, found, loss = MANY_EQUAL * self.texts, [], None
        if self.unknown >= MANY_UNKNOWN or self.equal_unknown >= many_equal > 0:
            equal = f", so that {self.equal_unknown:,} of {self.texts:,} texts become equal to another"
            loss = f"does not know {self.unknown:.0%} of the texts' pieces{equal if self.equal_unknown else ''}"
        elif self.spelled >= MOSTLY:
            loss = f"reads {self.spelled:.0%} of the texts' letters one by one, having no words of their language"
        if loss:
            english = " (the vocabulary of the bundled encoder is English)" if encoder == BUNDLED else ""
            found.append(f"teacher.encoder = {encoder!r} {loss}{english}; take one of the language: {OTHER_ENCODERS}")
        if self.equal_cut >= many_equal > 0:
            found.append(
                f"{self.equal_cut:,} of {self.texts:,} texts become equal to another, being cut at "
                f"teacher.max_tokens = {self.max_tokens}; raise it, or begin data.text with what tells the items apart"
            )
        elif self.full >= many_equal > 0:
            found.append(
                f"{self.full:,} of {self.texts:,} texts reach teacher.max_tokens = {self.max_tokens}, and what is "
                "beyond is not read; raise it, or begin data.text with what matters"
            )
        return found

    def illegible(self) -> str | None:
        """Return what is lost of texts that are mostly lost, in words; None where most is read."""
        if self.unknown >= MOSTLY:
            return f"{self.unknown:.0%} of their pieces are unknown"
        return f"{self.spelled:.0%} of their letters are read one by one" if self.spelled >= MOSTLY else None


def measure(tokenizer: PreTrainedTokenizerBase, tokens: Ragged, max_tokens: int, prefix: str = "") -> TextCoverage:
    """Return how much an encoder reads of distinct texts.

    Args:
        tokenizer: The encoder's.
        tokens: The texts in it.
        max_tokens: The length at which they were cut.
        prefix: What stands before every text; its pieces are not counted.
    """
    values, offsets = tokens.values.numpy(), tokens.offsets.numpy()
    unknown = _unknown_id(tokenizer)
    special = {code for code, token in tokenizer.added_tokens_decoder.items() if token.special} - {unknown}
    occurs = np.bincount(values)
    for code in tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else ():
        occurs[code] = max(0, occurs[code] - len(tokens))
    counts = {int(code): int(occurs[code]) for code in np.flatnonzero(occurs) if code not in special}
    lost = counts.pop(unknown, 0)
    equal_unknown, equal_cut = _equal(values, offsets, unknown, max_tokens)
    return TextCoverage(
        texts=len(tokens),
        unknown=lost / max(1, lost + sum(counts.values())),
        spelled=_spelled(tokenizer, counts, len(tokens)),
        equal_unknown=equal_unknown,
        equal_cut=equal_cut,
        full=int((np.diff(offsets) >= max_tokens).sum()),
        max_tokens=max_tokens,
    )


def _unknown_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the unknown token, or -1 where there is none."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    # The tokenizer of an export is read from its vocabulary's file alone, which does not say what each token is for.
    added = tokenizer.added_tokens_decoder.items()
    return next((code for code, token in added if token.content in _UNKNOWN_TOKENS), -1)


def _spelled(tokenizer: PreTrainedTokenizerBase, counts: Mapping[int, int], texts: int) -> float:
    """Return the share of the letters that are a piece each, of pieces and how often each occurs in the texts."""
    letters = single = 0
    for piece, count in zip(tokenizer.convert_ids_to_tokens(list(counts)), counts.values(), strict=True):
        for mark in _PIECE_MARKS:
            piece = piece.removeprefix(mark)
        own = [letter for letter in piece if unicodedata.category(letter)[0] in "LM"]
        letters += count * len(own)
        single += count * (len(own) == 1 and not any(first <= ord(own[0]) <= last for first, last in _SINGLE))
    return single / letters if single >= _WORD * texts else 0.0


def _equal(values: Ints, offsets: Ints, unknown: int, max_tokens: int) -> tuple[int, int]:
    """Return how many texts have the tokens of another: those with an unknown piece, and those that were cut."""
    has_unknown = np.add.reduceat(values == unknown, offsets[:-1]) > 0
    suspect = np.flatnonzero(has_unknown | (np.diff(offsets) >= max_tokens))
    rows = [values[offsets[row] : offsets[row + 1]].tobytes() for row in suspect]
    shared = Counter(rows)
    equal = np.array([shared[row] > 1 for row in rows], dtype=bool)
    return int((equal & has_unknown[suspect]).sum()), int((equal & ~has_unknown[suspect]).sum())


def check_texts(teacher: TeacherSection, texts: Sequence[str], progress: Progress | None = None) -> list[str]:
    """Return the warnings on a study's texts without reading the encoder's weights, and without a network.

    Args:
        teacher: The study's encoder.
        texts: Distinct texts.
        progress: Called with (texts done, texts in all).
    """
    try:
        folder, _ = locate(teacher)
        # transformers takes seconds to import.
        from transformers import AutoTokenizer

        quiet_transformers()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        prefix = pooling_and_prefix(teacher, folder)[1] if isinstance(folder, Path) else teacher.prefix or ""
    except Exception:  # tokenizers raises nothing more specific of a damaged file
        return [
            f"the tokenizer of teacher.encoder = {teacher.encoder!r} cannot be read on this machine: whether it knows "
            "the texts' language was not checked; hpo run checks it, and fetches it where it is on a hub"
        ]
    tokens = tokenize(tokenizer, texts, teacher.max_tokens, progress, prefix=prefix)
    return measure(tokenizer, tokens, teacher.max_tokens, prefix).warnings(teacher.encoder)
