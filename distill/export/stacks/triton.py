"""Writes a Triton model repository: texts in, vectors out, and logits of classifiers of known classes.

    triton/NAME            an ensemble of the two
    triton/NAME-tokenizer  texts to tokens, in Triton's Python backend: `distill/export/stacks/triton_tokenizer.py`
    triton/NAME-encoder    tokens to vectors: the ONNX graph, in the backend onnxruntime

The encoder's names, types and sizes are read from the graph.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.export.manifest import GRAPHS, Manifest
from distill.export.onnx_graph import LOGITS, OUTPUTS, check_packages

# ONNX is an optional package: it is imported where a graph is read.
if TYPE_CHECKING:
    from onnx import ValueInfoProto

# The repository's folder in an export.
TRITON = "triton"
MAX_BATCH = 64
LABELS = "labels.txt"
_TOKENIZER = Path(__file__).with_name("triton_tokenizer.py")
# ONNX's names of types, and Triton's.
_TYPES = {"INT64": "TYPE_INT64", "FLOAT": "TYPE_FP32"}


class Port(NamedTuple):
    """An input or output of a model.

    Attributes:
        name: Its name.
        type: Triton's name of its type.
        sizes: Of one text, without the batch; -1 where any is accepted.
    """

    name: str
    type: str
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, value: ValueInfoProto) -> Port:
        """Return a graph's input or output."""
        from onnx import TensorProto

        tensor = value.type.tensor_type
        sizes = tuple(size.dim_value or -1 for size in tensor.shape.dim)
        return cls(value.name, _TYPES[TensorProto.DataType.Name(tensor.elem_type)], sizes[1:])


def model_name(study: str) -> str:
    """Return what Triton calls a study's student: a study's name may have characters that a path in a URL may not."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", study).strip("._-")[:100] or "student"


def write_triton(draft: Path, manifest: Manifest) -> None:
    """Write the repository, of a draft that holds the ONNX graph and the tokenizer.

    Args:
        draft: The export.
        manifest: Of `distill.export.description.describe`.

    Raises:
        InputError: A package of the extra `export` is missing.
    """
    check_packages()
    import onnx

    graph = onnx.load(draft / GRAPHS["onnx"]).graph
    tokens = [Port.of(value) for value in graph.input]
    # The states of single tokens are left out: the server would copy them for every request.
    vectors = [Port.of(value) for value in graph.output if value.name != OUTPUTS[0]]
    texts = [Port("TEXT", "TYPE_STRING", (2 if manifest.reads_pairs else 1,))]
    whole = draft / TRITON / model_name(manifest.study)
    tokenizer, encoder = (whole.with_name(f"{whole.name}-{step}") for step in ("tokenizer", "encoder"))
    for folder in (tokenizer, encoder, whole):
        (folder / "1").mkdir(parents=True)
    _link(draft / "tokenizer.json", tokenizer / "1" / "tokenizer.json")
    _link(draft / GRAPHS["onnx"], encoder / "1" / "model.onnx")
    shutil.copyfile(_TOKENIZER, tokenizer / "1" / "model.py")
    (whole / "1" / "README.md").write_text("An ensemble has no files; Triton wants the folder of its version.\n")
    prefix, most = _parameter("prefix", manifest.prefix), _parameter("max_tokens", str(manifest.max_tokens))
    _write(tokenizer, 'backend: "python"', texts, tokens, _BATCHING, prefix, most, _ON_CPU)
    _write(encoder, 'backend: "onnxruntime"', tokens, vectors, _BATCHING)
    if any(port.name == LOGITS for port in vectors):
        (encoder / LABELS).write_text("".join(f"{label}\n" for label in manifest.labels), encoding="utf-8")
    steps = _step(tokenizer.name, texts, tokens) + _step(encoder.name, tokens, vectors)
    _write(whole, 'platform: "ensemble"', texts, vectors, f"ensemble_scheduling {{\n{steps}}}")


# Requests that wait for the model together are run together.
_BATCHING = "dynamic_batching { }"
_ON_CPU = "instance_group [ { kind: KIND_CPU } ]"


def _write(folder: Path, runs: str, inputs: Sequence[Port], outputs: Sequence[Port], *rest: str) -> None:
    """Write the configuration of a model, which has the name of its folder."""
    ports = [_port("input", port) for port in inputs] + [_port("output", port) for port in outputs]
    lines = [f'name: "{folder.name}"', runs, f"max_batch_size: {MAX_BATCH}", *ports, *rest]
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _port(kind: str, port: Port) -> str:
    labels = f' label_filename: "{LABELS}"' if (kind, port.name) == ("output", LOGITS) else ""
    sizes = ", ".join(map(str, port.sizes))
    return f'{kind} [ {{ name: "{port.name}" data_type: {port.type} dims: [ {sizes} ]{labels} }} ]'


def _parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}'


def _step(model: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Return a step of the ensemble, whose tensors have their names in all models."""
    maps = [f'input_map {{ key: "{port.name}" value: "{port.name}" }}' for port in inputs]
    maps += [f'output_map {{ key: "{port.name}" value: "{port.name}" }}' for port in outputs]
    lines = "".join(f"    {each}\n" for each in (f'model_name: "{model}"', "model_version: -1", *maps))
    return f"  step {{\n{lines}  }}\n"


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the disk has no such names: weights should lie there once."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)
