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
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.export.manifest import HEAD, LEXICON, PROJECTION, Manifest, verify
from distill.hyperparameters import StudentHyperparameters
from distill.student import Student, Texts, assemble
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.tfidf import BUCKETS, Lexicon
from studies.model.encoder import Ragged, quiet_transformers
from studies.model.recommender import Head

# transformers is imported where a model or tokenizer is opened: reading a manifest needs none.
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
        from transformers import AutoTokenizer

        quiet_transformers()
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        return tokenizer

    @cached_property
    def model(self) -> DistilBertModel:
        """The encoder, in fp32 however its weights are stored."""
        from transformers import DistilBertModel

        quiet_transformers()
        return DistilBertModel.from_pretrained(
            self.folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )

    @cached_property
    def projection(self) -> nn.Linear | None:
        """The projection from a narrower encoder's vectors to the head's width; None where there is none."""
        if not (self.folder / PROJECTION).is_file():
            return None
        weight = load_file(self.folder / PROJECTION)["linear.weight"].float()
        projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        projection.load_state_dict({"weight": weight})
        return projection

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text."""
        return self.manifest.max_tokens


def load_export(folder: Path) -> ExportedStudent:
    """Load an export after checking its version and every file's digest; it uses no network.

    Raises:
        InputError: The folder is not an export, or of another version; or a file is missing or altered.
    """
    manifest = verify(folder)
    head = _read_head(load_file(folder / HEAD), manifest.learner)
    return ExportedStudent(folder, manifest, head, manifest.learner, _read_lexicon(folder))


def as_student(exported: ExportedStudent, tokens: Ragged) -> Student:
    """Return the exported student on other items, for `distill.objective.evaluate`.

    Args:
        exported: What `load_export` returned.
        tokens: The items' texts: `tokenize(exported.tokenizer, texts, exported.max_tokens)`.
    """
    values = StudentHyperparameters.from_dict(exported.manifest.distillation)
    texts = Texts(None, exported.tokenizer, tokens)
    return assemble(
        exported.model, exported.projection, exported.head, texts, exported.max_tokens, exported.learner, values
    )


def _read_head(weights: dict[str, Tensor], learner: Hyperparameters) -> Head:
    size, width = weights["project.weight"].shape
    head = Head(width, size, learned_rates=learner.entry.learns_inner_rates)
    head.load_state_dict(weights)
    return head


def _read_lexicon(folder: Path) -> Lexicon:
    stored = load_file(folder / LEXICON)
    frequency = np.zeros(BUCKETS, dtype=np.int64)
    frequency[stored["buckets"].numpy()] = stored["frequency"].numpy()
    return Lexicon(int(stored["texts"]), frequency)
