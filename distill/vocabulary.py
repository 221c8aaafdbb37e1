"""Trims a vocabulary to what a catalogue needs: half of a small BERT is its table of tokens.

WordPiece takes the longest token it has (Wu et al. 2016), so a text whose tokens are all kept is tokenized as before.
Every token of one character is kept as well: a word that the catalogue lacks is split into smaller tokens, at worst
letters, and becomes the unknown token only where it was unknown before. Tokens that were added to the vocabulary are
kept too: they are found in a text before WordPiece reads it, and no smaller tokens need make them up.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from studies.model.encoder import Ragged
from studies.model.wordpiece import wordpiece

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def needed_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Ragged, items: Tensor) -> Tensor:
    """Return the (V,) ids that a trimmed vocabulary keeps, ascending.

    Those are the tokens of these items' texts, all single characters, the added tokens and the special tokens.

    Args:
        tokenizer: Of the whole vocabulary.
        tokens: All items' texts.
        items: (N,) items whose texts may be read.
    """
    ids, _ = tokens.padded(items, torch.device("cpu"))
    state = wordpiece(tokenizer)
    prefix = state["model"]["continuing_subword_prefix"]
    letters = [code for piece, code in tokenizer.get_vocab().items() if len(piece.removeprefix(prefix)) == 1]
    added = [token["id"] for token in state["added_tokens"]]
    always = torch.tensor([*letters, *added, *tokenizer.all_special_ids])
    kept: Tensor = torch.unique(torch.cat([ids.flatten(), always]))
    return kept


def trim(tokenizer: PreTrainedTokenizerBase, kept: Tensor) -> PreTrainedTokenizerBase:
    """Return a tokenizer of these tokens alone; a token's new id is its position among them.

    Args:
        tokenizer: Stays as it is.
        kept: (V,) ids, ascending, with all added and special tokens among them.

    Raises:
        InputError: The tokenizer is not WordPiece.
    """
    place = {old: new for new, old in enumerate(kept.tolist())}
    state = wordpiece(tokenizer)
    state["model"]["vocab"] = {token: place[old] for token, old in state["model"]["vocab"].items() if old in place}
    for added in state["added_tokens"]:
        added["id"] = place[added["id"]]
    # The caller truncates and pads; the template holds the ids of special tokens.
    state["truncation"] = state["padding"] = None
    for special in state["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [place[old] for old in special["ids"]]
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(state))
    return trimmed


class SubwordDropout:
    """Splits tokens of training texts at random, so that a student learns to read words outside its vocabulary.

    A token is replaced by the longest shorter ones, which may be split again: what WordPiece does with a word when a
    token is taken out of the vocabulary (Hiraoka 2022, MaxMatch-Dropout). Added tokens stay whole: none is ever
    missing from a student's vocabulary.

    Args:
        tokenizer: The student's.
        max_tokens: No text becomes longer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        state = wordpiece(tokenizer)
        vocabulary, prefix = state["model"]["vocab"], state["model"]["continuing_subword_prefix"]
        whole = {*tokenizer.all_special_tokens, *(token["content"] for token in state["added_tokens"])}
        self._max_tokens = max_tokens
        self._parts = {
            code: parts
            for token, code in vocabulary.items()
            if token not in whole and (parts := _shorter_tokens(token, prefix, vocabulary))
        }

    def split(self, texts: Ragged, rate: float, rng: np.random.Generator) -> Ragged:
        """Return the same texts with each token split at a rate, and its parts again at the same rate."""
        rows = [row.tolist() for row in torch.tensor_split(texts.values, texts.offsets[1:-1])]
        split = [self._split_text(row, rate, rng) for row in rows]
        lengths = torch.tensor([0, *map(len, split)])
        return Ragged(torch.tensor(list(itertools.chain(*split))), lengths.cumsum(0))

    def _split_text(self, tokens: list[int], rate: float, rng: np.random.Generator) -> list[int]:
        room, done, rest = self._max_tokens - len(tokens), list[int](), tokens[::-1]
        while rest:
            token = rest.pop()
            parts = self._parts.get(token)
            if parts is not None and len(parts) <= room + 1 and rng.random() < rate:
                rest += parts[::-1]
                room -= len(parts) - 1
            else:
                done.append(token)
        return done


def _shorter_tokens(token: str, prefix: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Return the longest shorter tokens that make up a token, as WordPiece finds them; empty where there are none."""
    word, continues = token.removeprefix(prefix), token != token.removeprefix(prefix)
    parts: list[int] = []
    start, longest = 0, len(word) - 1
    while start < len(word):
        marks = prefix if continues or start else ""
        end = next(
            (e for e in range(min(len(word), start + longest), start, -1) if marks + word[start:e] in vocabulary), 0
        )
        if not end:
            return []
        parts.append(vocabulary[marks + word[start:end]])
        start = end
    return parts
