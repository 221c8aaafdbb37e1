"""Reads the words of the texts that an exported recommender was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from distill.export.tasks.registry import LEXICON
from distill.serving.tensors import read_tensors
from storage.errors import InputError
from studies.episodes.tfidf import BUCKETS, Lexicon


def read_lexicon(folder: Path) -> Lexicon:
    """Return the lexicon of an export.

    Raises:
        InputError: Its file cannot be read or holds no counts of words.
    """
    path = folder / LEXICON
    stored = read_tensors(path, {"texts": (1,), "buckets": (None,), "frequency": (None,)}, torch.int64)
    texts, buckets, counts = (stored[name].numpy() for name in ("texts", "buckets", "frequency"))
    known = len(buckets) == len(counts) and np.all((buckets >= 0) & (buckets < BUCKETS))
    if not (known and np.all((counts >= 0) & (counts <= texts)) and texts[0] < 2**40):
        raise InputError(f"{path} holds no counts of words: export the study again")
    frequency = np.zeros(BUCKETS, dtype=np.int64)
    frequency[buckets] = counts
    return Lexicon(int(texts[0]), frequency)
