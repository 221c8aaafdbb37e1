"""The files of an encoder's folder, checked before anything is read: safetensors weights, whole, and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import safe_open

from storage.errors import InputError
from storage.files.atomic import sha256

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# One of them is enough for AutoTokenizer.
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)


def check_folder(folder: Path, expected: str | None) -> str:
    """Return the SHA-256 of a folder's weights; of several shards that of their digests, in the order of their names.

    Args:
        folder: The encoder's.
        expected: The digest that the study file gives.

    Raises:
        InputError: There are no safetensors weights or no tokenizer, or the digest is not the expected one.
        SafetensorError: A file was cut short.
    """
    shards = _shards(folder)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise InputError(
            f"the encoder folder {folder} has no tokenizer (tokenizer.json or vocab.txt); "
            "save it beside the model: tokenizer.save_pretrained(folder)"
        )
    digests = []
    for shard in shards:
        with safe_open(shard, "pt"):  # refuses a file that was cut short
            digests.append(sha256(shard))
    digest = digests[0] if len(shards) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if expected is not None and digest != expected:
        raise InputError(
            f"{shards[0]} has SHA-256 {digest}, expected {expected}; the file is damaged or another version: "
            "install the package again, or correct teacher.sha256"
        )
    return digest


def _shards(folder: Path) -> list[Path]:
    """Return the files of the weights."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            named = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{folder / _INDEX} is no index of shards: copy the encoder's folder again") from error
        if missing := sorted(name for name in named if not (folder / name).is_file()):
            raise InputError(
                f"the encoder folder {folder} lacks {missing[0]}, which {_INDEX} names: copy the folder again"
            )
        return [folder / name for name in sorted(named)]
    pickle = next((name for name in _PICKLES if (folder / name).is_file()), None)
    held = f" but {pickle}, a pickle, which may run code when it is read" if pickle else ""
    raise InputError(f"the encoder folder {folder} has no {_WEIGHTS}{held}; save the model again with save_pretrained")
