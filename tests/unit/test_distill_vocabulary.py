"""A trimmed vocabulary reads the catalogue as before and every other text without a hole."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distill.vocabulary import SubwordDropout, can_trim, needed_tokens, trim
from studies.config.definition import TeacherSection
from studies.model import encoder as encoders
from studies.model.encoder import Ragged, tokenize
from tests.encoders import tokenizer_of

TEXTS = ["whole milk, 1 l, own brand", "dark chocolate with hazelnuts", "chicken broth", "corn flakes, 500 g"]
WHOLE = encoders.load(TeacherSection()).tokenizer
TOKENS = tokenize(WHOLE, TEXTS, 48)
KEPT = needed_tokens(WHOLE, TOKENS, torch.arange(len(TEXTS)))
TRIMMED = trim(WHOLE, KEPT)


def pieces(text: str) -> list[int]:
    """A text's tokens in the trimmed vocabulary, as ids of the whole one."""
    return [int(KEPT[code]) for code in TRIMMED(text)["input_ids"]]


def test_the_catalogues_texts_are_cut_as_before() -> None:
    """Other pieces are other vectors: the student would start from something else than its teacher."""
    for text in TEXTS:
        assert pieces(text) == WHOLE(text)["input_ids"]


def test_a_word_that_was_cut_away_falls_into_known_pieces() -> None:
    """An unknown token for every new word would make all new products alike."""
    read = WHOLE.convert_ids_to_tokens(pieces("granola"))
    assert "[UNK]" not in read
    assert "".join(piece.removeprefix("##") for piece in read[1:-1]) == "granola"
    assert len(read) > len(WHOLE("granola")["input_ids"])


def with_added_tokens() -> tuple[PreTrainedTokenizerBase, Tensor, PreTrainedTokenizerBase]:
    """MiniLM's tokenizer with tokens of a shop, what is kept of it for two texts, and the trimmed one."""
    whole = copy.deepcopy(WHOLE)
    whole.add_tokens(["corvo-x", "☃☃"])
    whole.add_special_tokens({"additional_special_tokens": ["[BRAND]"]})
    kept = needed_tokens(whole, tokenize(whole, ["corvo-x lamp", "whole milk"], 48), torch.arange(2))
    return whole, kept, trim(whole, kept)


def test_added_tokens_stay_what_they_are(tmp_path: Path) -> None:
    """A student that reads a brand as letters, or as unknown, reads other texts than its teacher."""
    from transformers import AutoTokenizer

    whole, kept, trimmed = with_added_tokens()
    trimmed.save_pretrained(tmp_path)
    for read in (trimmed, AutoTokenizer.from_pretrained(tmp_path)):
        for text in ("corvo-x lamp", "[BRAND] whole milk", "☃☃ milk corvo-x"):
            assert kept[read(text)["input_ids"]].tolist() == whole(text)["input_ids"]
    assert len(trimmed) == len(kept)
    small = tokenize(trimmed, ["[BRAND] corvo-x ☃☃"], 48)
    split = SubwordDropout(trimmed, 48).split(small, 1.0, np.random.default_rng(0))
    assert torch.equal(split.values, small.values)


@given(st.text(max_size=40))
def test_no_text_becomes_unknown_that_was_not(text: str) -> None:
    """The promise of the fallback, for any text whatever."""
    unknown = WHOLE.unk_token_id
    assert pieces(text).count(unknown) == WHOLE(text)["input_ids"].count(unknown)


def test_ids_are_places_among_the_kept_and_special_tokens_are_there() -> None:
    """A special token's old id in the template would read another token's row, or none."""
    assert TRIMMED.vocab_size == len(TRIMMED) == len(KEPT) < 4000
    for name in ("cls_token_id", "sep_token_id", "pad_token_id", "unk_token_id"):
        assert int(KEPT[getattr(TRIMMED, name)]) == getattr(WHOLE, name)
    assert WHOLE.vocab_size == 30522  # the caller's tokenizer is left alone


def test_a_saved_trimmed_tokenizer_reads_the_same(tmp_path: Path) -> None:
    """What is exported is the file, not the object."""
    from transformers import AutoTokenizer

    TRIMMED.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "crème brûlée 北京 granola"):
        assert again(text)["input_ids"] == TRIMMED(text)["input_ids"]


@pytest.mark.parametrize("architecture", ["xlm-roberta", "deberta-v2", "mpnet"])
def test_other_vocabularies_are_trimmed_alike(architecture: str, tmp_path: Path) -> None:
    """A likeliest path that changes with what was left out, or an unknown token by another's id, reads other texts."""
    from transformers import AutoTokenizer

    whole, texts = tokenizer_of(architecture), ["red acme lamp", "corvo-x lamp", "blue towel ☃, small [BRAND]", "☃red"]
    whole.add_tokens(["corvo-x"])
    whole.add_special_tokens({"additional_special_tokens": ["[BRAND]"]})
    kept = needed_tokens(whole, tokenize(whole, texts, 48), torch.arange(len(texts)))
    trimmed = trim(whole, kept)
    trimmed.save_pretrained(tmp_path)
    for read in (trimmed, AutoTokenizer.from_pretrained(tmp_path)):
        for text in texts:
            assert kept[read(text)["input_ids"]].tolist() == whole(text)["input_ids"]
        pair = read("red lamp", "corvo-x")["input_ids"]
        assert kept[pair].tolist() == whole("red lamp", "corvo-x")["input_ids"]
        assert read.unk_token_id not in read("granola")["input_ids"]
    assert len(trimmed) == len(kept) < len(whole)
    small = tokenize(trimmed, texts, 48)
    split = SubwordDropout(trimmed, 48).split(small, 1.0, np.random.default_rng(0))
    assert letters_of(trimmed, split) == letters_of(trimmed, small)
    pieces = {piece.strip("#▁") for piece in trimmed.convert_ids_to_tokens(split.values.tolist())}
    assert {piece for piece in pieces if len(piece) > 1} <= {*whole.all_special_tokens, "corvo-x"}


def letters_of(tokenizer: PreTrainedTokenizerBase, tokens: Ragged) -> list[str]:
    """The letters of each text."""
    rows = torch.tensor_split(tokens.values, tokens.offsets[1:-1])
    return ["".join(tokenizer.decode(row).split()) for row in rows]


def test_byte_level_pieces_are_all_kept() -> None:
    """They cannot be taken out one by one: the rest would no longer cover every text."""
    assert can_trim(WHOLE)
    assert not can_trim(tokenizer_of("roberta"))


@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_subword_dropout_keeps_the_letters_and_the_limit(seed: int, rate: float) -> None:
    """A letter lost in splitting would teach the student another word."""
    small = tokenize(TRIMMED, TEXTS, 48)
    split = SubwordDropout(TRIMMED, 12).split(small, rate, np.random.default_rng(seed))
    assert len(split) == len(TEXTS)
    for row, text in enumerate(TEXTS):
        codes = split.values[split.offsets[row] : split.offsets[row + 1]].tolist()
        read = TRIMMED.convert_ids_to_tokens(codes)
        assert "".join(piece.removeprefix("##") for piece in read[1:-1]) == text.replace(" ", "")
        assert len(codes) <= max(12, int(small.lengths[row]))
        assert (read[0], read[-1]) == ("[CLS]", "[SEP]")


def test_subword_dropout_at_rate_one_gives_letters() -> None:
    """The longest prefix alone would stop half-way and leave rare pieces unread."""
    small = tokenize(TRIMMED, ["milk"], 48)
    split = SubwordDropout(TRIMMED, 48).split(small, 1.0, np.random.default_rng(0))
    assert TRIMMED.convert_ids_to_tokens(split.values.tolist()) == ["[CLS]", "m", "##i", "##l", "##k", "[SEP]"]
