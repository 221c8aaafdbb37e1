"""Loads an export folder: checks its manifest at once, reads each part when it is first used.

`distill/inference.py` serves what is loaded here; `hpo evaluate` measures it as the study measured the student.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from distill.export.manifest import HEAD, PROJECTION, Manifest, verify
from distill.hyperparameters import StudentHyperparameters
from distill.serving.encoder_files import read_config, read_encoder, read_tokenizer
from distill.serving.tensors import read_tensors
from distill.student import Student, Texts, assemble
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.model.encoder import Ragged

# For type checkers alone: transformers is imported where a model or tokenizer is opened.
if TYPE_CHECKING:
    from transformers import DistilBertModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExportedStudent:
    """A loaded export.

    Attributes:
        folder: Where it is.
        manifest: Its manifest (`distill/export/manifest.py`), checked.
        head: The head that adapts, of the task's own type.
        learner: The hyperparameters by which it adapts.
    """

    folder: Path
    manifest: Manifest
    head: Any
    learner: Hyperparameters

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

    def head_learner(self) -> Learner:
        """Return a learner, on the device, that adapts a copy of the head over given vectors."""
        found: Learner = self.manifest.kind.part("head_learner")(copy.deepcopy(self.head), self.learner)
        return found

    @property
    def max_tokens(self) -> int:
        """Most tokens of a text."""
        return self.manifest.max_tokens

    @property
    def prefix(self) -> str:
        """What stands before every text."""
        return self.manifest.prefix


def load_export(folder: Path) -> ExportedStudent:
    """Load an export after checking its version, its bounds and every file's digest; it uses no network.

    Raises:
        InputError: The folder is not an export, or of another version; a value is out of bounds; or a file is missing,
            altered, or not what an export holds.
    """
    manifest = verify(folder)
    if manifest.form.knows_classes and len(manifest.labels) < 2:
        raise InputError(f"{folder} has {len(manifest.labels)} labels, a classifier at least 2: export the study again")
    read_config(folder, manifest)
    return ExportedStudent(folder, manifest, _read_head(folder, manifest), manifest.learner)


def as_student(exported: ExportedStudent, tokens: Ragged) -> Student:
    """Return the exported student on other items, for `distill.objective.evaluate`.

    Args:
        exported: What `load_export` returned.
        tokens: The items' texts: `tokenize(exported.tokenizer, texts, exported.max_tokens, prefix=exported.prefix)`.
    """
    values = StudentHyperparameters.from_dict(exported.manifest.distillation)
    texts = Texts(None, exported.tokenizer, tokens, exported.prefix, exported.manifest.pooling)
    learner, form = exported.head_learner(), exported.manifest.form
    return assemble(exported.model, exported.projection, learner, texts, exported.max_tokens, values, form)


def _read_head(folder: Path, manifest: Manifest) -> Any:
    head = manifest.blank_head()
    shapes = {name: tuple(weight.shape) for name, weight in head.state_dict().items()}
    head.load_state_dict(read_tensors(folder / HEAD, shapes))
    return head
