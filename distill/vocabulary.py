"""Trims a vocabulary to what a catalogue needs: half of a small encoder is its table of tokens.

WordPiece takes the longest token it has (Wu et al. 2016), Unigram the likeliest path (Kudo 2018), so a text whose
tokens are all kept is tokenized as before. Every token of one character is kept as well: a word that the catalogue
lacks is split into smaller tokens, at worst letters, and becomes the unknown token only where it was unknown before.
Tokens that were added to the vocabulary are kept too: they are found in a text before the model reads it, and no
smaller tokens need make them up. Other kinds keep their whole vocabulary: pieces of byte-level BPE are merged of
others.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from studies.model.encoder import Ragged
from studies.model.pretrained.vocabulary import tokenizer_state, trimming_refused

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
    state = tokenizer_state(tokenizer)
    pieces = _pieces(state)
    mark = _mark(state)
    letters = [code for piece, code in pieces.items() if len(piece.removeprefix(mark)) <= 1 or _is_byte(piece)]
    added = [token["id"] for token in state["added_tokens"]]
    always = torch.tensor([*letters, *_unlikeliest(state), *added, *tokenizer.all_special_ids])
    kept: Tensor = torch.unique(torch.cat([ids.flatten(), always]))
    return kept


def can_trim(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a vocabulary can be trimmed; a student keeps the whole of others."""
    return trimming_refused(tokenizer_state(tokenizer)) is None


def trim(tokenizer: PreTrainedTokenizerBase, kept: Tensor) -> PreTrainedTokenizerBase:
    """Return a tokenizer of these tokens alone; a token's new id is its position among them.

    Args:
        tokenizer: One of which `can_trim`; it stays as it is.
        kept: (V,) ids, ascending, with all added and special tokens among them.
    """
    place = {old: new for new, old in enumerate(kept.tolist())}
    state = tokenizer_state(tokenizer)
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for old, piece in enumerate(model["vocab"]) if old in place]
        model["unk_id"] = place.get(model["unk_id"])
    else:
        model["vocab"] = {token: place[old] for token, old in model["vocab"].items() if old in place}
    for added in state["added_tokens"]:
        added["id"] = place[added["id"]]
    # The caller truncates and pads; the template holds the ids of special tokens.
    state["truncation"] = state["padding"] = None
    template = state["post_processor"]
    for special in template.get("special_tokens", {}).values():
        special["ids"] = [place[old] for old in special["ids"]]
    for name in {"sep", "cls"} & template.keys():
        template[name][1] = place[template[name][1]]
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(state))
    return trimmed


def _pieces(state: Mapping[str, Any]) -> dict[str, int]:
    """Return the model's pieces and their ids."""
    vocabulary = state["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: code for code, (piece, _) in enumerate(vocabulary)}


def _mark(state: Mapping[str, Any]) -> str:
    """Return what marks pieces inside a word, or at its beginning."""
    return "\u2581" if state["model"]["type"] == "Unigram" else str(state["model"]["continuing_subword_prefix"])


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


def _unlikeliest(state: Mapping[str, Any]) -> list[int]:
    """Return the piece with the least score: a path through unknown characters is scored relative to it."""
    if state["model"]["type"] != "Unigram":
        return []
    scores = [score for _, score in state["model"]["vocab"]]
    return [scores.index(min(scores))]


class SubwordDropout:
    """Splits tokens of training texts at random, so that a student learns to read words outside its vocabulary.

    A token is replaced by shorter ones, which may be split again: what the tokenizer does with a word when a token is
    taken out of the vocabulary. For WordPiece these are the longest (Hiraoka 2022, MaxMatch-Dropout), for Unigram the
    likeliest. Added tokens stay whole: none is ever missing from a student's vocabulary.

    Args:
        tokenizer: The student's, one of which `can_trim`.
        max_tokens: No text becomes longer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        state = tokenizer_state(tokenizer)
        vocabulary = _pieces(state)
        whole = {*tokenizer.all_special_tokens, *(token["content"] for token in state["added_tokens"])}
        self._max_tokens = max_tokens
        split = _SHORTER[state["model"]["type"]](state["model"], vocabulary)
        self._parts = {
            code: parts for token, code in vocabulary.items() if token not in whole and (parts := split(token))
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


# Returns the ids of the shorter tokens that make up a token; none where there are none.
Split = Callable[[str], list[int]]


def _longest_shorter(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Split:
    """Return what splits a token of WordPiece: the longest shorter tokens, from its beginning on."""
    prefix = model["continuing_subword_prefix"]

    def split(token: str) -> list[int]:
        word, continues = token.removeprefix(prefix), token != token.removeprefix(prefix)
        parts: list[int] = []
        start, longest = 0, len(word) - 1
        while start < len(word):
            marks = prefix if continues or start else ""
            ends = range(min(len(word), start + longest), start, -1)
            end = next((end for end in ends if marks + word[start:end] in vocabulary), 0)
            if not end:
                return []
            parts.append(vocabulary[marks + word[start:end]])
            start = end
        return parts

    return split


def _likeliest_shorter(model: Mapping[str, Any], vocabulary: Mapping[str, int]) -> Split:
    """Return what splits a token of Unigram: the likeliest path of shorter tokens (Viterbi)."""
    scores = dict(model["vocab"])

    def split(token: str) -> list[int]:
        # By the end of each beginning of the token: the best score, and where its last piece starts.
        best = [(0.0, 0)]
        for end in range(1, len(token) + 1):
            starts = range(1 if end == len(token) else 0, end)
            known = [(best[at][0] + scores[token[at:end]], at) for at in starts if token[at:end] in scores]
            best.append(max(known, default=(-math.inf, 0)))
        if best[-1][0] == -math.inf:
            return []
        parts, end = list[int](), len(token)
        while end:
            parts.append(vocabulary[token[best[end][1] : end]])
            end = best[end][1]
        return parts[::-1]

    return split


_SHORTER: dict[str, Callable[[Mapping[str, Any], Mapping[str, int]], Split]] = {
    "WordPiece": _longest_shorter,
    "Unigram": _likeliest_shorter,
}
