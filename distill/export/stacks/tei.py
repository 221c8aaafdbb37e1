"""The rules by which text-embeddings-inference (TEI) opens a folder, applied to an export.

TEI is a server in Rust that is not run here. These are the rules of its sources of 2026-07-24 (commit 0d124dc, after
version 1.9.3): `router/src/lib.rs`, `backends/src/lib.rs`, and what its two backends read of a DistilBERT: `candle` on
GPUs and CPUs, and `ort` on CPUs where there is an ONNX graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from distill.export.manifest import GRAPHS
from studies.evaluation.figures import misfit

# A text longer than a batch is cut: TEI's --max-batch-tokens, unless it is told otherwise.
MAX_BATCH_TOKENS = 16_384
_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
Count = Annotated[int, Field(ge=0)]
# Weights by name.
Shapes = Mapping[str, tuple[int, ...]]


class _Read(BaseModel):
    """A file as serde reads it: types are strict, other keys say nothing to it."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Config(_Read):
    """`config.json`: ModelConfig of the router, DistilBertConfig of candle."""

    architectures: list[str]
    model_type: Literal["distilbert"]
    max_position_embeddings: Count
    pad_token_id: Count
    vocab_size: Count
    dim: Count
    n_layers: Count
    n_heads: Count
    hidden_dim: Count
    activation: Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swiglu", "tanh"]
    id2label: dict[str, str] | None = None
    label2id: dict[str, Count] | None = None

    @property
    def classifies(self) -> bool:
        """Whether TEI serves /predict with it, and not /embed."""
        return any(name.endswith("Classification") for name in self.architectures)


class GraphConfig(_Read):
    """`config.json`: Config of ort."""

    hidden_size: Count
    num_hidden_layers: Count


class Pooling(_Read):
    """`1_Pooling/config.json`."""

    pooling_mode_cls_token: bool
    pooling_mode_mean_tokens: bool


class Limit(_Read):
    """`sentence_bert_config.json`."""

    max_seq_length: Annotated[int, Field(ge=1, le=MAX_BATCH_TOKENS)]


class Prompts(_Read):
    """`config_sentence_transformers.json`."""

    prompts: dict[str, str] | None = None


class Module(_Read):
    """One of `modules.json`: TEI leaves out the Dense module where it does not know a type, and only logs it."""

    idx: Count
    name: str
    path: str
    type: Literal[
        "sentence_transformers.models.Dense",
        "sentence_transformers.models.Normalize",
        "sentence_transformers.models.Pooling",
        "sentence_transformers.models.Transformer",
    ]


class Dense(_Read):
    """`2_Dense/config.json`."""

    in_features: Count
    out_features: Count
    bias: bool
    activation_function: Literal["torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"] | None = None


def broken_rules(folder: Path) -> list[str]:
    """Return what keeps TEI from serving a folder as its own library does; nothing where it will."""
    try:
        return [*_broken_rules(folder)]
    except (OSError, ValueError, SafetensorError) as error:
        return [str(error)]


def _broken_rules(folder: Path) -> Iterator[str]:
    from tokenizers import Tokenizer

    config = _parsed(folder, "config.json", Config)
    _parsed(folder, "sentence_bert_config.json", Limit)
    _parsed(folder, "config_sentence_transformers.json", Prompts)
    modules = _parsed(folder, "modules.json", list[Module])
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the package raises nothing more specific
        yield f"tokenizer.json ({error})"
    shapes = _shapes(folder / "model.safetensors")
    yield from _lacking("model.safetensors", shapes, _encoder(config, shapes))
    if config.classifies:
        yield from _classifier(config, shapes)
    else:
        pooling = _parsed(folder, "1_Pooling/config.json", Pooling)
        if not (pooling.pooling_mode_cls_token or pooling.pooling_mode_mean_tokens):
            yield "1_Pooling/config.json (TEI pools the first token or the mean, nothing else)"
    for module in modules:
        if module.type.endswith(".Dense"):
            dense = _parsed(folder, f"{module.path}/config.json", Dense)
            weights = _linear(dense.out_features, dense.in_features)
            wanted = {f"linear.{name}": shape for name, shape in weights.items() if dense.bias or name == "weight"}
            path = f"{module.path}/model.safetensors"
            yield from _lacking(path, _shapes(folder / path), wanted)
    if (folder / GRAPHS["onnx"]).is_file():
        yield from _graph(folder, config)


def _parsed(folder: Path, name: str, kind: Any) -> Any:
    """Return a file's values as TEI reads them."""
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{name} ({misfit(error)})") from error


def _shapes(path: Path) -> Shapes:
    with safe_open(path, "np") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _encoder(config: Config, shapes: Shapes) -> Shapes:
    """Return the encoder's weights, behind the prefix that the file has."""
    width, wide = config.dim, config.hidden_dim
    norm: Shapes = {"weight": (width,), "bias": (width,)}
    layer = {f"attention.{part}_lin": _linear(width, width) for part in ("q", "k", "v", "out")}
    layer |= {"ffn.lin1": _linear(wide, width), "ffn.lin2": _linear(width, wide)}
    layer |= {"sa_layer_norm": norm, "output_layer_norm": norm}
    parts = {
        "embeddings.word_embeddings": _table(config.vocab_size, width),
        "embeddings.position_embeddings": _table(config.max_position_embeddings, width),
        "embeddings.LayerNorm": norm,
    }
    for number in range(config.n_layers):
        parts |= {f"transformer.layer.{number}.{name}": weights for name, weights in layer.items()}
    prefix = "distilbert." if any(name.startswith("distilbert.") for name in shapes) else ""
    return {f"{prefix}{part}.{name}": shape for part, weights in parts.items() for name, shape in weights.items()}


def _table(rows: int, columns: int) -> Shapes:
    return {"weight": (rows, columns)}


def _linear(rows: int, columns: int) -> Shapes:
    return {"weight": (rows, columns), "bias": (rows,)}


def _classifier(config: Config, shapes: Shapes) -> Iterator[str]:
    """Yield what keeps TEI from serving /predict."""
    if not config.id2label or config.label2id is None:
        yield "config.json (a classifier needs id2label and label2id)"
        return
    parts = {"pre_classifier": _linear(config.dim, config.dim), "classifier": _linear(len(config.id2label), config.dim)}
    wanted = {f"{part}.{name}": shape for part, weights in parts.items() for name, shape in weights.items()}
    yield from _lacking("model.safetensors", shapes, wanted)


def _lacking(name: str, shapes: Shapes, wanted: Shapes) -> Iterator[str]:
    """Yield the first weight that a file does not hold in the shape that TEI wants."""
    for weight, shape in wanted.items():
        if (found := shapes.get(weight)) != shape:
            yield f"{name} ({weight} of shape {shape}, found {found})"
            return


def _graph(folder: Path, config: Config) -> Iterator[str]:
    """Yield what keeps TEI's backend ort from running the ONNX graph, which it prefers on CPUs."""
    import onnx

    _parsed(folder, "config.json", GraphConfig)
    graph = onnx.load(folder / GRAPHS["onnx"], load_external_data=False).graph
    if unknown := {each.name for each in graph.input} - _INPUTS:
        yield f"{GRAPHS['onnx']} (TEI has no {', '.join(sorted(unknown))} for it)"
    wanted = "logits" if config.classifies else "sentence_embedding"
    if wanted not in {each.name for each in graph.output}:
        yield f"{GRAPHS['onnx']} (it has no {wanted})"
