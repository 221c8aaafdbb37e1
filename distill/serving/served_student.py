"""What every task's student in service has: the encoder of an export, and a head that adapts over its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor

from distill.export.tasks.registry import EXPORTED
from distill.serving.backends import Backend, Embed, Embedder, Precision, open_encoder
from distill.serving.loader import ExportedStudent, load_export
from storage.errors import InputError
from studies.progress import Progress


class ServedStudent:
    """A student in service; a task's own adapts and predicts.

    Args:
        exported: What `load_export` returned.
        backend: What runs the encoder.
        precision: Of the encoder in torch.
        wrap: Given what embeds texts, returns what does so in its place, such as one that joins what several threads
            ask for; as it is if left out.

    Attributes:
        task: The task that it serves.
        manifest: The export's.

    Raises:
        InputError: The export is of another task; or see `load`.
    """

    task: ClassVar[str]

    def __init__(
        self,
        exported: ExportedStudent,
        backend: Backend = "torch",
        precision: Precision = "fp32",
        wrap: Callable[[Embed], Embed] | None = None,
    ) -> None:
        manifest = exported.manifest
        if manifest.task != self.task:
            raise InputError(
                f"{exported.folder} holds a student of {manifest.task}, not of {self.task}; open it with "
                f"{EXPORTED[manifest.task].server}, or use {EXPORTED[manifest.task].verb}"
            )
        self.manifest = manifest
        self._embedder = Embedder(exported, open_encoder(exported, backend, precision), wrap)

    @classmethod
    def load(cls, folder: Path | str, backend: Backend = "torch", precision: Precision = "fp32") -> Self:
        """Open an export.

        Args:
            folder: The export.
            backend: What runs the encoder: torch, or ONNX Runtime on the export's graph or its 8-bit one.
            precision: Of the encoder in torch; "auto" is bf16 or fp16 where the hardware has units for it, else fp32.

        Raises:
            InputError: The folder is not an export, or of another version or task; a file is missing or altered; the
                backend is unknown, not installed or not in the export, or does not have the precision.
        """
        return cls(load_export(Path(folder)), backend, precision)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return (n, D) vectors of length 1, on the device; `progress` is called with (texts done, texts in all)."""
        return self._embedder.embed(texts, progress)

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts have more tokens than the student reads."""
        return self._embedder.count_cut(texts)
