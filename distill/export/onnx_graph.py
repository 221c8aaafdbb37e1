"""Writes a student's encoder as an ONNX graph, in fp32; `distill/export/int8_graph.py` makes the 8-bit one of it.

Both graphs read `input_ids` and `attention_mask` (batch, tokens), int64, of any batch and length, and give
`last_hidden_state` (batch, tokens, W) and `sentence_embedding` (batch, D) of length 1: pooling, projection and
normalisation are inside, so that a server needs only the graph and the tokenizer. Those of a classifier of known
classes give `logits` (batch, N) too, in the order of the manifest's labels.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.student import Student, project
from storage.errors import InputError
from studies.model.pooling import Pooling, pool

# transformers is for type checkers alone, ONNX an optional package.
if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
LOGITS = "logits"
# Packages that write and run a graph.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """Raise before anything is written where a package is missing.

    Raises:
        InputError: A package of the extra `export` is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the formats onnx, onnx-int8 and triton need {' and '.join(missing)}, not installed here; "
            "run: pip install 'scenetune[export]'"
        )


def write_onnx(student: Student, path: Path) -> None:
    """Write the encoder's graph in fp32.

    Args:
        student: Stays as it is.
        path: Path of the graph; its folder must exist.

    Raises:
        InputError: A package of the extra `export` is missing.
    """
    check_packages()
    graph = EncoderGraph.of(student)
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            graph,
            example(),
            path,
            dynamo=True,
            input_names=INPUTS,
            output_names=graph.outputs,
            dynamic_shapes=graph.sizes(),
            external_data=False,
            verbose=False,
        )
    _strip(path)


def example() -> tuple[Tensor, Tensor]:
    """Return token ids and mask for an exporter: two rows of three tokens, the last of them padding.

    Nothing of them may become a constant of the graph.
    """
    return torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 1], [1, 1, 0]])


def _strip(path: Path) -> None:
    """Remove the source location of each node: it holds paths of this machine and is a good part of a small graph."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


class EncoderGraph(nn.Module):
    """What a graph computes.

    Attributes:
        outputs: Names of what it returns.
    """

    def __init__(self, model: PreTrainedModel, projection: nn.Linear | None, pooling: Pooling, known: Any) -> None:
        super().__init__()
        self.model, self.projection, self.pooling, self.known = model, projection, pooling, known
        self.outputs = OUTPUTS if known is None else (*OUTPUTS, LOGITS)

    @classmethod
    def of(cls, student: Student) -> EncoderGraph:
        """Return the graph of a copy of a student's encoder, in fp32 on the CPU."""
        tower = student.tower
        known = copy.deepcopy(student.head) if tower.form.knows_classes else None
        graph = cls(copy.deepcopy(tower.model), copy.deepcopy(tower.projection), tower.pooling, known)
        return graph.cpu().float().eval()

    def sizes(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """Return for an exporter that both inputs may have any batch, and any length that there are positions for."""
        most = int(self.model.config.max_position_embeddings)
        sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=most)}
        return sizes, sizes

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Return what `outputs` names."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = project(pool(hidden, attention_mask, self.pooling), self.projection)
        return (hidden, vectors) if self.known is None else (hidden, vectors, self.known.joint_logits(vectors))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which prints its steps and warns of what a user cannot change."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
