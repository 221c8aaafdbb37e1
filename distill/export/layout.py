"""Writes the files of an export that transformers and sentence-transformers read, and the head that only we read."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.export.manifest import HEAD, PROJECTION, Manifest
from distill.student import Student
from studies.config.definition import Precision
from studies.model.encoder import Encoder
from studies.model.pooling import Pooling

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_encoder(student: Student, draft: Path, precision: Precision = "fp32") -> None:
    """Write weights, configuration and tokenizer, as transformers opens them.

    Args:
        student: Stays as it is.
        draft: The folder.
        precision: Of the stored weights; the configuration names it, so that transformers opens the model in it.
    """
    model = student.tower.form.exported_model(student.tower.model, student.head)
    if precision != "fp32":
        model = copy.deepcopy(model)
        nn.Module.to(model, DTYPES[precision])
    model.save_pretrained(draft)
    _name_sizes(draft / "config.json")
    # A copy, since the student keeps its own. DistilBERT takes no token types.
    copied = copy.deepcopy(student.tokenizer)
    copied.model_max_length = student.max_tokens
    # The attribute is saved only where it was an argument of the tokenizer: hence both.
    copied.model_input_names = copied.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    copied.save_pretrained(draft)


def _name_sizes(config: Path) -> None:
    """Add width and layers by the names that other models have: without these TEI does not open the ONNX graph."""
    said = json.loads(config.read_text(encoding="utf-8"))
    said |= {"hidden_size": said["dim"], "num_hidden_layers": said["n_layers"]}
    config.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_sentence_transformers(student: Student, draft: Path, precision: Precision = "fp32") -> None:
    """Write the layout that sentence-transformers and text-embeddings-inference read; without it TEI pools by CLS.

    A narrow student's vectors are normalised before they are projected as well, which its Dense module leaves out:
    the projection has no bias, so only lengths differ, and the last module makes them 1.

    Args:
        student: Stays as it is.
        draft: The folder.
        precision: Of the stored projection.
    """
    projection = student.tower.projection
    modules = ["Transformer", "Pooling", *(["Dense"] if projection is not None else []), "Normalize"]
    pooling = _pooling(student.tower.model.config.hidden_size, student.tower.pooling)
    layout = _layout(modules, pooling, student.max_tokens, student.prefix)
    if projection is not None:
        layout["2_Dense/config.json"] = {
            "in_features": projection.in_features,
            "out_features": projection.out_features,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
    _write(layout, draft)
    if projection is not None:
        save_tensors({"linear.weight": projection.weight.to(DTYPES[precision])}, draft / PROJECTION)


def write_encoder_folder(encoder: Encoder, max_tokens: int, draft: Path) -> None:
    """Write a teacher's encoder as transformers and sentence-transformers open it.

    Args:
        encoder: The encoder.
        max_tokens: Most tokens of a text.
        draft: The folder.
    """
    encoder.model.save_pretrained(draft)
    encoder.tokenizer.save_pretrained(draft)
    _write(
        _layout(
            ["Transformer", "Pooling", "Normalize"],
            _pooling(encoder.width, encoder.pooling),
            max_tokens,
            encoder.prefix,
        ),
        draft,
    )


def _layout(modules: Sequence[str], pooling: dict[str, Any], max_tokens: int, prefix: str) -> dict[str, Any]:
    """Return the files that sentence-transformers reads, by name."""
    return {
        "modules.json": [_module(place, kind) for place, kind in enumerate(modules)],
        "sentence_bert_config.json": {"max_seq_length": max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "__version__": {},
            "prompts": {"default": prefix} if prefix else {},
            "default_prompt_name": "default" if prefix else None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": pooling,
        f"{len(modules) - 1}_Normalize/config.json": {},
    }


def _write(layout: Mapping[str, Any], draft: Path) -> None:
    for name, content in layout.items():
        path = draft / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _module(place: int, kind: str) -> dict[str, Any]:
    return {
        "idx": place,
        "name": str(place),
        "path": f"{place}_{kind}" if place else "",
        "type": f"sentence_transformers.models.{kind}",
    }


def _pooling(width: int, pooling: Pooling) -> dict[str, Any]:
    return {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": pooling == "max",
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def write_head(head: nn.Module, manifest: Manifest, draft: Path) -> None:
    """Write what adapting needs of the head, in fp32 whatever the encoder's precision.

    Args:
        head: The student's; weights that only training needs are left out.
        manifest: Of `distill.export.description.describe`.
        draft: The folder.
    """
    needed = manifest.blank_head().state_dict()
    save_tensors({name: tensor for name, tensor in head.state_dict().items() if name in needed}, draft / HEAD)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors, wherever they are and however they are laid out."""
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        path,
        metadata={"format": "pt"},
    )
