"""Runs an exported ONNX graph in the place of a student's encoder: the same head on another backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from distill.export.onnx_graph import INPUTS, OUTPUTS
from distill.student import Student, TokenTower
from storage.errors import InputError
from studies.model.device import device
from studies.model.encoder import Ragged


class OnnxGraph:
    """A session of a graph that `distill/export/onnx_graph.py` wrote; several threads may run it at once.

    Args:
        graph: Its file.
        gpu: Run it on the GPU where ONNX Runtime has one.

    Raises:
        InputError: The package onnxruntime is not installed, or does not open the graph.
    """

    def __init__(self, graph: Path, *, gpu: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f"{graph.name} needs the package onnxruntime, which is not installed; run: "
                "pip install 'scenetune[export]', or use the encoder in torch"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ["CUDAExecutionProvider"] * gpu + ["CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._path = graph
        with self._named():
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, D) vectors of length 1, on the device, of (B, L) token ids and their mask, on the CPU.

        Raises:
            InputError: The graph cannot be run: it is not one of ours.
        """
        inputs = dict(zip(INPUTS, (ids.numpy(), mask.long().numpy()), strict=True))
        with self._named():
            (vectors,) = self._session.run(OUTPUTS[1:], inputs)
        return torch.from_numpy(vectors).to(device())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Turn errors of ONNX Runtime, which have no class in common but this one, into one that names the graph."""
        try:
            yield
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run {self._path} ({error}): export the study again") from error


class OnnxTower(nn.Module):
    """Item vectors from a graph, on the CPU.

    Args:
        graph: Its file.
        tokens: The items' texts, in the student's vocabulary.

    Raises:
        InputError: The package onnxruntime is not installed.
    """

    def __init__(self, graph: Path, tokens: Ragged) -> None:
        super().__init__()
        self._graph, self._tokens = OnnxGraph(graph), tokens

    def forward(self, items: Tensor) -> Tensor:
        """Return (M, D) vectors of length 1, on the device, of (M,) item codes."""
        return self._graph(*self._tokens.padded(items, torch.device("cpu")))


def through(graph: Path, student: Student, tokens: Ragged | None = None) -> Student:
    """Return the student with a graph in the place of its encoder.

    Args:
        graph: The graph of this student's encoder.
        student: Stays as it is.
        tokens: The items' texts; the student's own if left out.

    Raises:
        InputError: The package onnxruntime is not installed.
    """
    tower = OnnxTower(graph, student.tower.tokens if tokens is None else tokens)
    # Evaluation takes only vectors from a tower.
    return replace(student, tower=cast(TokenTower, tower))
