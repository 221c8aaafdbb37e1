"""Initialises a student from its teacher's layers, and from the strongest components of these where it is narrower.

DistilBERT is BERT without token types and pooler (Sanh et al. 2019), so a BERT layer fits a DistilBERT layer weight by
weight. A narrower student keeps the components of the hidden states that LayerNorm scales most, and the attention heads
and neurons with the largest output weights (docs/decisions.md lists what was compared).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distill.hyperparameters import Init, StudentHyperparameters
from storage.errors import InputError
from studies.model.encoder import Encoder
from studies.model.towers import TopLayersTower

# transformers is imported where a student is built: it takes seconds.
if TYPE_CHECKING:
    from transformers import DistilBertConfig, DistilBertModel

# DistilBERT's name of each part of a layer → BERT's.
_LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")


def student_config(encoder: Encoder, values: StudentHyperparameters, vocabulary: int | None = None) -> DistilBertConfig:
    """Return the configuration of a student of an encoder.

    Dropout stays the teacher's, for further training; the distillation uses none.

    Args:
        encoder: The BERT that the teachers are built on.
        values: The student's.
        vocabulary: Number of its tokens; the encoder's if left out.

    Raises:
        InputError: It has more layers or a greater width than the encoder.
    """
    from transformers import DistilBertConfig

    if values.layers > encoder.layers:
        raise InputError(
            f"a student of {values.layers} layers cannot start from {encoder.name!r}, which has {encoder.layers}; "
            f"set distill.space.layers to at most {encoder.layers}"
        )
    bert = encoder.config
    width = values.width or bert.hidden_size
    if width > bert.hidden_size:
        raise InputError(
            f"a student {width} wide cannot start from {encoder.name!r}, which is {bert.hidden_size} wide; "
            f"set distill.space.width to at most that, or 0"
        )
    return DistilBertConfig(
        vocab_size=vocabulary or bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=values.layers,
        n_heads=bert.num_attention_heads * width // bert.hidden_size,
        dim=width,
        hidden_dim=bert.intermediate_size * width // bert.hidden_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        pad_token_id=bert.pad_token_id if vocabulary is None else 0,
    )


def init_encoder(
    encoder: Encoder, teacher_tower: nn.Module | None, kept: Tensor | None, values: StudentHyperparameters
) -> tuple[DistilBertModel, nn.Linear | None]:
    """Return an encoder with its teacher's weights; at full depth and width it computes what the teacher does.

    Args:
        encoder: The BERT that the teachers are built on.
        teacher_tower: The best teacher's tower; the top layers that it trained take the place of the encoder's.
        kept: (V,) the encoder's ids of the student's tokens; all of them if left out.
        values: The student's; `init` names the layers it starts from: "alternate" (spread evenly, first and last
            included, as DistilBERT was made of BERT), "first" or "last".

    Returns:
        The encoder, and the projection from its width to the teacher's where it is narrower.

    Raises:
        InputError: It has more layers or a greater width than the encoder.
    """
    from transformers import DistilBertModel

    config = student_config(encoder, values, None if kept is None else len(kept))
    layers, embeddings = _teacher_weights(encoder, teacher_tower)
    if kept is not None:
        embeddings["word_embeddings.weight"] = embeddings["word_embeddings.weight"][kept]
    weights = {f"embeddings.{name}": embeddings[name] for name in _EMBEDDINGS}
    for place, source in enumerate(chosen_layers(len(layers), values.layers, values.init)):
        for ours, theirs in _LAYER.items():
            for kind in ("weight", "bias"):
                weights[f"transformer.layer.{place}.{ours}.{kind}"] = layers[source][f"{theirs}.{kind}"]
    projection = None
    if config.dim < encoder.width:
        components = strongest_components(layers, config.dim)
        weights = _narrow(weights, components, config)
        projection = nn.Linear(config.dim, encoder.width, bias=False)
        projection.load_state_dict({"weight": torch.eye(encoder.width)[:, components]})
    student = DistilBertModel(config)
    student.load_state_dict(weights)
    return student, projection


def chosen_layers(depth: int, layers: int, init: Init) -> list[int]:
    """Return which of `depth` layers a student of `layers` starts from, lowest first."""
    if init == "first":
        return list(range(layers))
    if init == "last":
        return list(range(depth - layers, depth))
    return [round(place * (depth - 1) / max(1, layers - 1)) for place in range(layers)]


def _teacher_weights(encoder: Encoder, tower: nn.Module | None) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the teacher's layers, lowest first, and its embeddings, on the CPU; every token is of type 0."""
    bert = encoder.model
    stack = list(bert.encoder.layer)
    embeddings = _weights_of(bert.embeddings)
    if isinstance(tower, TopLayersTower):
        trained = list(tower.top_layers.layer)
        stack[len(stack) - len(trained) :] = trained
        if tower.top_layers.embeddings is not None:
            embeddings |= _weights_of(tower.top_layers.embeddings)
    # DistilBERT has no token types: type 0, which is the same everywhere, is added to the positions.
    embeddings["position_embeddings.weight"] = (
        embeddings["position_embeddings.weight"] + embeddings["token_type_embeddings.weight"][0]
    )
    return [_weights_of(layer) for layer in stack], embeddings


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    # A trained tower is on the device, and so is the encoder once it has run there.
    return {name: weight.cpu() for name, weight in module.state_dict().items()}


def strongest_components(layers: Sequence[Mapping[str, Tensor]], width: int) -> Tensor:
    """Return the (W,) components of the hidden states that the LayerNorms of all layers scale most, ascending."""
    norms = ("attention.output.LayerNorm.weight", "output.LayerNorm.weight")
    scale = torch.stack([layer[name] for layer in layers for name in norms]).square().sum(0)
    return scale.topk(width).indices.sort().values


def _narrow(weights: Mapping[str, Tensor], kept: Tensor, config: DistilBertConfig) -> dict[str, Tensor]:
    """Return the weights on the (W,) kept components, with the heads and neurons that write most to them."""
    narrow = {name: w[..., kept] for name, w in weights.items() if "_embeddings." in name or "orm." in name}
    for layer in range(config.n_layers):
        prefix = f"transformer.layer.{layer}."
        out, second = (weights[f"{prefix}{part}.weight"][kept] for part in ("attention.out_lin", "ffn.lin2"))
        size = config.dim // config.n_heads
        heads = out.reshape(len(out), -1, size).norm(dim=(0, 2)).topk(config.n_heads).indices.sort().values
        rows = (heads[:, None] * size + torch.arange(size)).flatten()
        neurons = second.norm(dim=0).topk(config.hidden_dim).indices.sort().values
        for part, units, weight in (("attention.out_lin", rows, out), ("ffn.lin2", neurons, second)):
            narrow[f"{prefix}{part}.weight"] = weight[:, units]
            narrow[f"{prefix}{part}.bias"] = weights[f"{prefix}{part}.bias"][kept]
        into = {f"attention.{part}": rows for part in ("q_lin", "k_lin", "v_lin")} | {"ffn.lin1": neurons}
        for part, units in into.items():
            narrow[f"{prefix}{part}.weight"] = weights[f"{prefix}{part}.weight"][units][:, kept]
            narrow[f"{prefix}{part}.bias"] = weights[f"{prefix}{part}.bias"][units]
    return narrow
