"""Opens an export as a stranger would and says what vectors it gives: `python parity.py EXPORT TEXTS.json OUT`.

`distill/export.py` runs this file in a fresh process before an export becomes visible. It imports transformers alone
and nothing of ours, so that what agrees here agrees for whoever downloads the folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer


@torch.inference_mode()
def embed(folder: Path, texts: list[str]) -> torch.Tensor:
    """(n, D) vectors of length 1: the mean of the last hidden states, as the model card tells."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].to(hidden.dtype)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1)


if __name__ == "__main__":
    export, texts, out = map(Path, sys.argv[1:])
    save_file({"vectors": embed(export, json.loads(texts.read_text(encoding="utf-8")))}, out)
