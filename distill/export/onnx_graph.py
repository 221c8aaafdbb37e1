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
            f"the formats onnx and onnx-int8 need {' and '.join(missing)}, not installed here; "
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
    known = copy.deepcopy(student.head) if student.tower.form.knows_classes else None
    model, projection = copy.deepcopy(student.tower.model), copy.deepcopy(student.tower.projection)
    graph = _Graph(model, projection, student.tower.pooling, known).cpu().float().eval()
    # Two rows of three tokens, the last of them padding: nothing of the example may become a constant.
    ids = torch.zeros(2, 3, dtype=torch.int64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            graph,
            (ids, mask),
            path,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS if known is None else (*OUTPUTS, LOGITS),
            dynamic_shapes=(sizes, sizes),
            external_data=False,
            verbose=False,
        )
    _strip(path)


def _strip(path: Path) -> None:
    """Remove the source location of each node: it holds paths of this machine and is a good part of a small graph."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


class _Graph(nn.Module):
    """What the ONNX graph computes."""

    def __init__(self, model: PreTrainedModel, projection: nn.Linear | None, pooling: Pooling, known: Any) -> None:
        super().__init__()
        self.model, self.projection, self.pooling, self.known = model, projection, pooling, known

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
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
