"""Writes a student's encoder as a package of torch.export: opened without our library, transformers or TorchScript.

It reads what the ONNX graph reads, of any batch and length, and returns what that returns, by the same names.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from distill.export.onnx_graph import EncoderGraph, example, quiet_exporter
from distill.student import Student

# Its path in an export.
TORCH_PACKAGE = "torch/model.pt2"


def write_torch_package(student: Student, path: Path) -> None:
    """Write the encoder in fp32.

    Args:
        student: Stays as it is.
        path: Path of the package; its folder must exist.
    """
    graph = EncoderGraph.of(student)
    with quiet_exporter(), torch.no_grad():
        program = torch.export.export(_Named(graph), example(), dynamic_shapes=graph.sizes())
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it holds paths of this machine
        torch.export.save(program, path)


class _Named(nn.Module):
    """A graph whose outputs have their names."""

    def __init__(self, graph: EncoderGraph) -> None:
        super().__init__()
        self.encoder = graph

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.encoder.outputs, self.encoder(input_ids, attention_mask), strict=True))
