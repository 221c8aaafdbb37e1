"""The vocabulary of a WordPiece tokenizer, the only one that can be trimmed to a catalogue.

Read before a search, so that no study ends at its distillation, and where a student's vocabulary is trimmed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from storage.errors import InputError

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def wordpiece(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the state of a WordPiece tokenizer, as its file holds it.

    Raises:
        InputError: The tokenizer is of another kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    kind = state["model"].get("type")
    if kind != "WordPiece" or (state["post_processor"] or {}).get("type") != "TemplateProcessing":
        raise InputError(
            f"the encoder's tokenizer is {kind or type(tokenizer).__name__}, and only WordPiece, as BERT has, can "
            'be cut down to a catalogue; set distill.space.vocabulary = "full"'
        )
    return state
