"""Serves an export: embeds texts, adapts to a scene, ranks its candidates.

What a user of a student imports. `StudentRecommender` needs the export folder alone; `load_export` and `as_student`
give its parts to `hpo evaluate`, which measures a folder as the study measured the student.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from distill.serving.backends import Backend, Embedder, Precision, open_encoder
from distill.serving.catalogue import Catalogue, StudentParts
from distill.serving.loader import ExportedStudent, as_student, load_export
from distill.serving.scene import History, Ranking, Scene
from studies.learners.base import Learner
from studies.learners.tasks.scene_head import head_learner
from studies.progress import Progress

__all__ = ["Catalogue", "ExportedStudent", "Ranking", "Scene", "StudentRecommender", "as_student", "load_export"]


class StudentRecommender:
    """A recommender that adapts to a new scene from a handful of interactions, served from an export folder.

    Everything runs on the GPU where there is one, and in fp32 unless `precision` is another, as the export's figures
    were measured. A history is a user's last items, oldest first; as in the study, at most the protocol's number of
    them is read. One student, its catalogues and scenes serve several threads at once.

    >>> student = StudentRecommender.load(folder)
    >>> catalogue = student.catalogue(["whole milk", "skim milk", "oat drink"])
    >>> scene = catalogue.adapt(support=[(["corn flakes"], "whole milk"), ([], 0), (["soy yoghurt"], "oat drink")])
    >>> ranking = scene.rank([["muesli", "corn flakes"], []], k=2)
    >>> ranking.items.shape
    torch.Size([2, 2])
    >>> scene.candidates[ranking.items[0, 0]] in catalogue.texts
    True
    >>> catalogue.add(["rice drink"])  # embeds this one alone; the scene stays what it is
    >>> catalogue.adapt(support=[([], "rice drink")], candidates=[0, 2, 3]).rank([[]]).items.shape
    torch.Size([1, 3])
    """

    def __init__(self, exported: ExportedStudent, backend: Backend = "torch", precision: Precision = "fp32") -> None:
        self.manifest = exported.manifest
        self._embedder = Embedder(exported, open_encoder(exported, backend, precision))
        protocol = exported.manifest.protocol
        self._parts = StudentParts(
            embed=self._embedder.embed,
            learner=head_learner(copy.deepcopy(exported.head), exported.learner),
            lexicon=exported.lexicon,
            # Where every item of the shop is a candidate everywhere, training has read all of their texts.
            counted=protocol.candidates == "all",
            products=protocol.products,
            longest_history=protocol.history,
        )

    @classmethod
    def load(cls, folder: Path | str, backend: Backend = "torch", precision: Precision = "fp32") -> StudentRecommender:
        """Open an export.

        Args:
            folder: The export.
            backend: What runs the encoder: torch, or ONNX Runtime on the export's graph or its 8-bit one.
            precision: Of the encoder in torch; "auto" is bf16 or fp16 where the hardware has units for it, else fp32.

        Raises:
            InputError: The folder is not an export, or of another version; a file is missing or altered; the backend
                is unknown, not installed or not in the export, or does not have the precision.
        """
        return cls(load_export(Path(folder)), backend, precision)

    @property
    def learner(self) -> Learner:
        """Adapts the head to a scene."""
        return self._parts.learner

    @property
    def longest_history(self) -> int:
        """How many of a user's last items are read."""
        return self._parts.longest_history

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return (n, D) vectors of length 1, on the device; `progress` is called with (texts done, texts in all)."""
        return self._embedder.embed(texts, progress)

    def catalogue(
        self, texts: Sequence[str], products: Sequence[int] | None = None, progress: Progress | None = None
    ) -> Catalogue:
        """Embed a catalogue, once for all scenes that are adapted from it.

        Args:
            texts: Of the items, each once.
            products: How many of the shop's products each text stands for; 1 each if left out.
            progress: Called with (texts embedded, texts in all).

        Raises:
            InputError: There are no texts, a text is blank or given twice, or products are not one positive number per
                text.
        """
        return Catalogue(self._parts, texts, products, progress)

    def adapt(
        self,
        candidates: Sequence[str],
        support: Sequence[tuple[History, int | str]],
        products: Sequence[int] | None = None,
    ) -> Scene:
        """Adapt to a scene whose texts are needed only once; `Catalogue.adapt` does not embed them again.

        Args:
            candidates: Texts of the scene's items, each once.
            support: The scene's first interactions in order of time, each with the user's history before it and the
                taken item: its position among the candidates, or its text.
            products: How many of the shop's products each candidate's text stands for; 1 each if left out.

        Raises:
            InputError: See `catalogue` and `Catalogue.adapt`.
        """
        return self.catalogue(candidates, products).adapt(support)
