"""Loads an export folder: checks its manifest at once, reads each part when it is first used.

`distill/inference.py` serves what is loaded here; `hpo evaluate` measures it as the study measured the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from distill.export.manifest import HEAD, LEXICON, PROJECTION, Manifest, verify
from distill.hyperparameters import StudentHyperparameters
from distill.serving.encoder_files import read_config, read_encoder, read_tokenizer
from distill.serving.tensors import read_tensors
from distill.student import Student, Texts, assemble
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.tfidf import BUCKETS, Lexicon
from studies.learners.tasks.scene_head import head_learner
from studies.model.encoder import Ragged
from studies.model.recommender import Head

# For type checkers alone: transformers is imported where a model or tokenizer is opened.
if TYPE_CHECKING:
    from transformers import DistilBertModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExportedStudent:
    """A loaded export.

    Attributes:
        folder: Where it is.
        manifest: Its manifest (`distill/export/manifest.py`), checked.
        head: The head that adapts to a scene.
        learner: The hyperparameters by which it adapts.
        lexicon: The words of the texts that it was trained on.
    """

    folder: Path
    manifest: Manifest
    head: Head
    learner: Hyperparameters
    lexicon: Lexicon

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which truncates at the student's limit."""
        return read_tokenizer(self.folder, self.manifest)

    @cached_property
    def model(self) -> DistilBertModel:
        """The encoder, in fp32 however its weights are stored."""
        return read_encoder(self.folder, self.manifest)

    @cached_property
    def projection(self) -> nn.Linear | None:
        """The projection from a narrower encoder's vectors to the head's width; None where there is none."""
        width, dimensions = self.manifest.width, self.manifest.dimensions
        if width == dimensions:
            return None
        weights = read_tensors(self.folder / PROJECTION, {"linear.weight": (dimensions, width)})
        projection = nn.Linear(width, dimensions, bias=False)
        projection.load_state_dict({"weight": weights["linear.weight"]})
        return projection

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text."""
        return self.manifest.max_tokens


def load_export(folder: Path) -> ExportedStudent:
    """Load an export after checking its version, its bounds and every file's digest; it uses no network.

    Raises:
        InputError: The folder is not an export, or of another version; a value is out of bounds; or a file is missing,
            altered, or not what an export holds.
    """
    manifest = verify(folder)
    read_config(folder, manifest)
    return ExportedStudent(folder, manifest, _read_head(folder, manifest), manifest.learner, _read_lexicon(folder))


def as_student(exported: ExportedStudent, tokens: Ragged) -> Student:
    """Return the exported student on other items, for `distill.objective.evaluate`.

    Args:
        exported: What `load_export` returned.
        tokens: The items' texts: `tokenize(exported.tokenizer, texts, exported.max_tokens)`.
    """
    values = StudentHyperparameters.from_dict(exported.manifest.distillation)
    texts = Texts(None, exported.tokenizer, tokens)
    learner = head_learner(exported.head, exported.learner)
    return assemble(exported.model, exported.projection, learner, texts, exported.max_tokens, values)


def _read_head(folder: Path, manifest: Manifest) -> Head:
    head = Head(manifest.dimensions, learned_rates=manifest.learner.entry.learns_inner_rates)
    shapes = {name: tuple(weight.shape) for name, weight in head.state_dict().items()}
    head.load_state_dict(read_tensors(folder / HEAD, shapes))
    return head


def _read_lexicon(folder: Path) -> Lexicon:
    path = folder / LEXICON
    stored = read_tensors(path, {"texts": (1,), "buckets": (None,), "frequency": (None,)}, torch.int64)
    texts, buckets, counts = (stored[name].numpy() for name in ("texts", "buckets", "frequency"))
    known = len(buckets) == len(counts) and np.all((buckets >= 0) & (buckets < BUCKETS))
    if not (known and np.all((counts >= 0) & (counts <= texts)) and texts[0] < 2**40):
        raise InputError(f"{path} holds no counts of words: export the study again")
    frequency = np.zeros(BUCKETS, dtype=np.int64)
    frequency[buckets] = counts
    return Lexicon(int(texts[0]), frequency)
