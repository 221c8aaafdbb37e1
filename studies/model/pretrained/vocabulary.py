"""Kinds of tokenizers, of which WordPiece and Unigram can be trimmed to a catalogue.

Read before a search, which says so, and where a student's vocabulary is trimmed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Byte-level BPE and its like: pieces are made of others, and cannot be taken out one by one.
TRIMMED = ("WordPiece", "Unigram")
# Post-processors whose ids of special tokens are known.
_TEMPLATES = ("TemplateProcessing", "RobertaProcessing", "BertProcessing")


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the state of a tokenizer, as tokenizer.json holds it; {"model": {}} of one that is not Rust's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    return state


def trimming_refused(state: dict[str, Any]) -> str | None:
    """Return why a tokenizer cannot be cut down to a catalogue, in words; None where it can.

    Args:
        state: Of `tokenizer_state`.
    """
    if (kind := state["model"].get("type")) not in TRIMMED:
        return f"its tokenizer is {kind or 'of an unknown kind'}, and only {' and '.join(TRIMMED)} can be cut down"
    if (state["post_processor"] or {}).get("type") not in _TEMPLATES:
        return "its tokenizer adds special tokens in a way that is not known here"
    return None
