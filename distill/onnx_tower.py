"""An exported ONNX graph in the place of a student's encoder: the same head, the same figures, another backend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from distill.onnx_export import INPUTS, OUTPUTS, check_packages
from distill.student import Student, TokenTower
from studies.device import device
from studies.encoder import Ragged


class OnnxTower(nn.Module):
    """Item vectors from a graph that `distill/onnx_export.py` wrote, on the CPU.

    Args:
        graph: its file.
        tokens: the items' texts, in the student's vocabulary.

    Raises:
        InputError: a package of the extra `export` is missing.
    """

    def __init__(self, graph: Path, tokens: Ragged) -> None:
        super().__init__()
        check_packages()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tokens = tokens

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1, on the device."""
        ids, mask = self._tokens.padded(items, torch.device("cpu"))
        inputs = dict(zip(INPUTS, (ids.numpy(), mask.long().numpy()), strict=True))
        (vectors,) = self._session.run(OUTPUTS[1:], inputs)
        return torch.from_numpy(vectors).to(device())


def through(graph: Path, student: Student, tokens: Ragged | None = None) -> Student:
    """The student with a graph in the place of its encoder.

    Args:
        graph: of this student's encoder.
        student: stays as it is.
        tokens: of the items it will be asked about; the student's own if left out.

    Raises:
        InputError: a package of the extra `export` is missing.
    """
    tower = OnnxTower(graph, student.tower.tokens if tokens is None else tokens)
    # Whoever evaluates a student asks its tower for vectors and nothing else.
    return replace(student, tower=cast(TokenTower, tower))
