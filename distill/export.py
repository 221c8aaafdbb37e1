"""Writes a student as one folder that transformers, sentence-transformers and scenetune open; whole, or not at all.

Last step of the path. A fresh process that knows nothing of ours opens the draft and must give the same vectors
before the folder becomes visible under its name.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import parity
from distill.card import model_card
from distill.manifest import HEAD, LEXICON, describe, is_export, seal
from distill.student import Student, TokenTower
from storage.atomic import atomic_folder
from storage.errors import InputError, ScenetuneError
from studies.device import full_precision
from studies.encoder import tokenize
from studies.evaluation import encode_items
from studies.lexicon import Lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOLERANCE = 1e-4
# Of several lengths, so that padding shows; one is longer than any limit, one has letters most vocabularies lack.
PROBES = ("milk", "whole milk, 1 l, own brand", "crème brûlée 北京", "dark chocolate with hazelnuts " * 200)


def export(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    lexicon: Lexicon,
    folder: Path,
    manifest: Mapping[str, Any],
    *,
    replace: bool = False,
) -> Path:
    """Writes `folder` and returns it.

    Args:
        student: what to write, in fp32.
        tokenizer: the encoder's; the export's copy cuts at the student's `max_tokens` and gives no token types.
        lexicon: the words of the texts that the student was trained on.
        folder: the export; must not exist.
        manifest: where the student comes from and its figures: `distill.manifest.ORIGIN` names what is needed.
        replace: put the export in the place of an older one.

    Raises:
        InputError: `folder` exists, or `replace` would destroy something that is not an export.
        ScenetuneError: a fresh process does not get the same vectors; nothing is left behind.
    """
    if replace and folder.exists() and not is_export(folder):
        raise InputError(f"{folder} exists and is not an export, so it is not replaced; name another folder")
    described = describe(student, manifest)
    with atomic_folder(folder, replace) as draft:
        _write_encoder(student, tokenizer, draft)
        _write_sentence_transformers(student, draft)
        head = {name: weight.cpu().contiguous() for name, weight in student.head.state_dict().items()}
        save_file(head, draft / HEAD, metadata={"format": "pt"})
        save_file(_lexicon_tensors(lexicon), draft / LEXICON, metadata={"format": "pt"})
        (draft / "README.md").write_text(model_card(described), encoding="utf-8")
        seal(draft, described)
        _check_parity(student, tokenizer, draft)
    return folder


def _lexicon_tensors(lexicon: Lexicon) -> dict[str, Tensor]:
    """Only the buckets that hold a word: a small part of all."""
    used = torch.from_numpy(lexicon.frequency.nonzero()[0])
    return {
        "texts": torch.tensor([lexicon.texts]),
        "buckets": used,
        "frequency": torch.from_numpy(lexicon.frequency.astype(np.int64))[used],
    }


def _write_encoder(student: Student, tokenizer: PreTrainedTokenizerBase, draft: Path) -> None:
    student.tower.model.save_pretrained(draft)
    # A copy: the study goes on with its own. DistilBERT takes no token types.
    copied = copy.deepcopy(tokenizer)
    copied.model_max_length = student.max_tokens
    # Saved only where it was given at the start: hence both.
    copied.model_input_names = copied.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    copied.save_pretrained(draft)


def _write_sentence_transformers(student: Student, draft: Path) -> None:
    """The layout that sentence-transformers and text-embeddings-inference read; without it TEI pools by CLS."""
    module = "sentence_transformers.models"
    layout: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{module}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{module}.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{module}.Normalize"},
        ],
        "sentence_bert_config.json": {"max_seq_length": student.max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "__version__": {},
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": student.tower.model.config.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
        "2_Normalize/config.json": {},
    }
    for name, content in layout.items():
        path = draft / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_parity(student: Student, tokenizer: PreTrainedTokenizerBase, draft: Path) -> None:
    """Compares the draft, opened by a fresh process without a network, with the student in this one."""
    tokens = tokenize(tokenizer, PROBES, student.max_tokens)
    with full_precision():
        tower = TokenTower(student.tower.model, tokens)
        ours = encode_items(tower, torch.arange(len(PROBES)), tokens.lengths).cpu()
    difference = float((ours - _strangers_vectors(draft)).abs().max())
    # Written so that NaN fails.
    if not difference <= TOLERANCE:
        raise ScenetuneError(
            f"the exported model differs from the student by {difference:.1e} in a fresh process, at most "
            f"{TOLERANCE:.0e} is accepted; nothing was exported: check the versions of torch and transformers"
        )


def _strangers_vectors(draft: Path) -> Tensor:
    # -P: our folder must not shadow anybody's modules. No GPU: another process may fill it.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with TemporaryDirectory() as scratch:
        texts, out = Path(scratch, "texts.json"), Path(scratch, "vectors.safetensors")
        texts.write_text(json.dumps(PROBES), encoding="utf-8")
        command = [sys.executable, "-P", parity.__file__, str(draft), str(texts), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise ScenetuneError(
                f"a fresh process could not open the exported model ({lines[-1]}); nothing was exported: check the "
                "versions of torch and transformers"
            )
        return load_file(out)["vectors"]
