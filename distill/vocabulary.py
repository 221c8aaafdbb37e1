"""A vocabulary cut down to what a catalogue needs: half of a small BERT is its table of tokens.

WordPiece takes the longest piece it knows (Wu et al. 2016), so a text whose pieces are all kept is cut as before. Every
piece of one character is kept as well: a word that the catalogue lacks falls into smaller pieces, at worst letters, and
never into the unknown token unless it did so before.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from storage.errors import InputError
from studies.model.encoder import Ragged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def needed_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Ragged, items: Tensor) -> Tensor:
    """(V,) ids that a trimmed vocabulary keeps, ascending: of these items' texts, of single characters, special ones.

    Args:
        tokenizer: the whole vocabulary's.
        tokens: all items' texts.
        items: (N,) items whose texts may be read.
    """
    ids, _ = tokens.padded(items, torch.device("cpu"))
    prefix = _wordpiece(tokenizer)["model"]["continuing_subword_prefix"]
    letters = [code for piece, code in tokenizer.get_vocab().items() if len(piece.removeprefix(prefix)) == 1]
    kept: Tensor = torch.unique(torch.cat([ids.flatten(), torch.tensor([*letters, *tokenizer.all_special_ids])]))
    return kept


def trim(tokenizer: PreTrainedTokenizerBase, kept: Tensor) -> PreTrainedTokenizerBase:
    """A tokenizer of these pieces alone; a piece's new id is its place among them.

    Args:
        tokenizer: stays as it is.
        kept: (V,) ids, ascending, with all special tokens among them.

    Raises:
        InputError: it is no WordPiece tokenizer.
    """
    place = {old: new for new, old in enumerate(kept.tolist())}
    state = _wordpiece(tokenizer)
    state["model"]["vocab"] = {p: place[old] for p, old in state["model"]["vocab"].items() if old in place}
    for added in state["added_tokens"]:
        added["id"] = place[added["id"]]
    # Cutting and padding are the caller's business; the ids of special tokens are the template's.
    state["truncation"] = state["padding"] = None
    for special in state["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [place[old] for old in special["ids"]]
    trimmed = copy.deepcopy(tokenizer)
    trimmed._tokenizer = Tokenizer.from_str(json.dumps(state))
    return trimmed


class Speller:
    """Spells texts by smaller pieces now and then, so that a student learns to read words that its vocabulary lacks.

    A piece gives way to the longest shorter ones, which may be split again: what WordPiece does with a word when a
    piece is taken out of the vocabulary (Hiraoka 2022, MaxMatch-Dropout).

    Args:
        tokenizer: the student's.
        max_tokens: no text becomes longer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        vocabulary, prefix = tokenizer.get_vocab(), _wordpiece(tokenizer)["model"]["continuing_subword_prefix"]
        special = set(tokenizer.all_special_tokens)
        self._max_tokens = max_tokens
        self._parts = {
            code: parts
            for piece, code in vocabulary.items()
            if piece not in special and (parts := _split(piece, prefix, vocabulary))
        }

    def spell(self, texts: Ragged, rate: float, rng: np.random.Generator) -> Ragged:
        """The same texts with each piece split at a rate, and its parts again at the same rate."""
        rows = [row.tolist() for row in torch.tensor_split(texts.values, texts.offsets[1:-1])]
        spelled = [self._spell(row, rate, rng) for row in rows]
        lengths = torch.tensor([0, *map(len, spelled)])
        return Ragged(torch.tensor(list(itertools.chain(*spelled))), lengths.cumsum(0))

    def _spell(self, row: list[int], rate: float, rng: np.random.Generator) -> list[int]:
        room, done, rest = self._max_tokens - len(row), list[int](), row[::-1]
        while rest:
            piece = rest.pop()
            parts = self._parts.get(piece)
            if parts is not None and len(parts) <= room + 1 and rng.random() < rate:
                rest += parts[::-1]
                room -= len(parts) - 1
            else:
                done.append(piece)
        return done


def _split(piece: str, prefix: str, vocabulary: Mapping[str, int]) -> list[int]:
    """The longest shorter pieces that a piece consists of, as WordPiece finds them; none where there are none."""
    word, continues = piece.removeprefix(prefix), piece != piece.removeprefix(prefix)
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


def _wordpiece(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    kind = state["model"].get("type")
    if kind != "WordPiece" or (state["post_processor"] or {}).get("type") != "TemplateProcessing":
        raise InputError(
            f"the encoder's tokenizer is {kind or type(tokenizer).__name__}, and only WordPiece, as BERT has, can "
            'be cut down to a catalogue; set distill.space.vocabulary = "full"'
        )
    return state
