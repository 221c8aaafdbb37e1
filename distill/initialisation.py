"""Initialises a student from its teacher's layers, and from the strongest components of these where it is narrower.

DistilBERT is BERT without token types and pooler (Sanh et al. 2019), so a layer of BERT, RoBERTa or ELECTRA fits a
DistilBERT layer weight by weight. Of others it takes the nearest: relative positions of attention have no place in it,
and of layers that are built otherwise (ModernBERT) it takes the word embeddings alone. A narrower student keeps the
components of the hidden states that LayerNorm scales most, and the attention heads and neurons with the largest output
weights (docs/decisions.md lists what was compared).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distill.hyperparameters import Init, StudentHyperparameters
from storage.errors import InputError
from studies.model.encoder import Encoder
from studies.model.pretrained.architectures import DISTILBERT, LayerParts, first_position, has_positions, setting
from studies.model.towers import TopLayersTower

# transformers is imported where a student is built: it takes seconds.
if TYPE_CHECKING:
    from transformers import DistilBertConfig, DistilBertModel

_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
# Positions of a student whose teacher has no table of them: as many as a text may have tokens.
_POSITIONS = 512


def student_config(encoder: Encoder, values: StudentHyperparameters, kept: Tensor | None = None) -> DistilBertConfig:
    """Return the configuration of a student of an encoder.

    Dropout stays the teacher's, for further training; the distillation uses none.

    Args:
        encoder: The encoder that the teachers are built on.
        values: The student's.
        kept: (V,) the encoder's ids of the student's tokens, ascending; all of them if left out.

    Raises:
        InputError: It has more layers, a greater width or larger feed-forward networks than the encoder.
    """
    from transformers import DistilBertConfig

    if values.layers > encoder.layers:
        raise InputError(
            f"a student of {values.layers} layers cannot start from {encoder.name!r}, which has {encoder.layers}; "
            f"set distill.space.layers to at most {encoder.layers}"
        )
    if values.feed_forward > encoder.feed_forward:
        raise InputError(
            f"a student with feed-forward networks of {values.feed_forward} cannot start from {encoder.name!r}, whose "
            f"have {encoder.feed_forward}; set distill.space.feed_forward to at most that, or 0"
        )
    width = values.width or encoder.width
    if width > encoder.width:
        raise InputError(
            f"a student {width} wide cannot start from {encoder.name!r}, which is {encoder.width} wide; "
            f"set distill.space.width to at most that, or 0"
        )
    config = encoder.config
    padding = int(config.pad_token_id or 0)
    return DistilBertConfig(
        vocab_size=config.vocab_size if kept is None else len(kept),
        max_position_embeddings=_positions(encoder),
        n_layers=values.layers,
        n_heads=encoder.heads * width // encoder.width,
        dim=width,
        hidden_dim=values.feed_forward or encoder.feed_forward * width // encoder.width,
        dropout=setting(config, "dropout"),
        attention_dropout=setting(config, "attention_dropout"),
        activation=setting(config, "activation"),
        initializer_range=config.initializer_range,
        pad_token_id=padding if kept is None else int(torch.searchsorted(kept, padding)),
    )


def _positions(encoder: Encoder) -> int:
    """Return how many positions a student has: its teacher's, where these have a table."""
    if has_positions(encoder.config):
        return int(encoder.config.max_position_embeddings) - first_position(encoder.config)
    return _POSITIONS


def init_encoder(
    encoder: Encoder, teacher_tower: nn.Module | None, kept: Tensor | None, values: StudentHyperparameters
) -> tuple[DistilBertModel, nn.Linear | None]:
    """Return an encoder with its teacher's weights; at full depth and width it computes what most teachers do.

    Args:
        encoder: The encoder that the teachers are built on; `unlike` says what of it the student starts without.
        teacher_tower: The best teacher's tower; the top layers that it trained take the place of the encoder's.
        kept: (V,) the encoder's ids of the student's tokens; all of them if left out.
        values: The student's; `init` names the layers it starts from: "alternate" (spread evenly, first and last
            included, as DistilBERT was made of BERT), "first" or "last".

    Returns:
        The encoder, and the projection from its width to the teacher's where it is narrower.

    Raises:
        InputError: It has more layers, a greater width or larger feed-forward networks than the encoder.
    """
    from transformers import DistilBertModel

    config = student_config(encoder, values, kept)
    layers, embeddings = _teacher_weights(encoder, teacher_tower)
    if kept is not None:
        embeddings["word_embeddings.weight"] = embeddings["word_embeddings.weight"][kept]
    with nullcontext() if layers else torch.random.fork_rng():
        if not layers:
            torch.manual_seed(0)
        student = DistilBertModel(config)
    weights = {f"embeddings.{name}": embeddings[name] for name in _EMBEDDINGS}
    for place, source in enumerate(chosen_layers(len(layers), values.layers, values.init) if layers else []):
        weights |= {f"transformer.layer.{place}.{name}": weight for name, weight in layers[source].items()}
    projection = None
    if config.dim < encoder.width or config.hidden_dim < encoder.feed_forward:
        components = strongest_components(layers, embeddings, config.dim)
        weights = _narrow(weights, components, config)
    if config.dim < encoder.width:
        projection = nn.Linear(config.dim, encoder.width, bias=False)
        projection.load_state_dict({"weight": torch.eye(encoder.width)[:, components]})
    # Layers without a counterpart keep the random weights that they are made with.
    student.load_state_dict(student.state_dict() | weights)
    return student, projection


def chosen_layers(depth: int, layers: int, init: Init) -> list[int]:
    """Return which of `depth` layers a student of `layers` starts from, lowest first."""
    if init == "first":
        return list(range(layers))
    if init == "last":
        return list(range(depth - layers, depth))
    return [round(place * (depth - 1) / max(1, layers - 1)) for place in range(layers)]


def _teacher_weights(encoder: Encoder, tower: nn.Module | None) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the teacher's layers, lowest first, and its embeddings, by DistilBERT's names, on the CPU.

    There are no layers where they have no counterpart in DistilBERT.
    """
    parts = encoder.parts
    stack = list(parts.layers)
    embeddings = _weights_of(parts.embeddings)
    projection = {} if parts.projection is None else _weights_of(parts.projection)
    if isinstance(tower, TopLayersTower):
        top = tower.top_layers
        stack[len(stack) - len(top.layer) :] = list(top.layer)
        if top.embeddings is not None:
            embeddings |= _weights_of(top.embeddings)
        if top.projection is not None:
            projection = _weights_of(top.projection)
    names, words = encoder.architecture.parts, parts.words.weight.cpu()
    layers = [] if names is None else [_layer_weights(_weights_of(layer), names, encoder) for layer in stack]
    return layers, _embedding_weights(encoder, words, embeddings, projection)


def _layer_weights(own: Mapping[str, Tensor], names: LayerParts, encoder: Encoder) -> dict[str, Tensor]:
    """Return a layer's weights by DistilBERT's names."""
    pairs = zip(DISTILBERT, names, strict=True)
    weights = {f"{ours}.{kind}": own[f"{theirs}.{kind}"] for ours, theirs in pairs for kind in ("weight", "bias")}
    # DeBERTa's scores are sums of up to three products, and smaller by the root of their number.
    if summed := len(getattr(encoder.config, "pos_att_type", None) or ()):
        for kind in ("weight", "bias"):
            weights[f"{DISTILBERT.query}.{kind}"] = weights[f"{DISTILBERT.query}.{kind}"] / (1 + summed) ** 0.5
    return weights


def _embedding_weights(
    encoder: Encoder, words: Tensor, own: Mapping[str, Tensor], projection: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the embeddings by DistilBERT's names; every token is of type 0.

    Args:
        encoder: The encoder.
        words: Its table of words.
        own: The weights of its embeddings.
        projection: Of that behind its embeddings; none where there is none.
    """
    # DistilBERT has no token types: type 0, which is the same everywhere, is added to the positions.
    positions = own.get("position_embeddings.weight", words.new_zeros(_POSITIONS, words.shape[1]))
    positions = positions[first_position(encoder.config) :] + own.get("token_type_embeddings.weight", words[:1] * 0)[0]
    scale = next(own[name] for name in ("LayerNorm.weight", "norm.weight") if name in own)
    shift = next((own[name] for name in ("LayerNorm.bias", "norm.bias") if name in own), torch.zeros_like(scale))
    if "embed_proj.weight" in own:  # DeBERTa projects before its norm, which is the same
        words, positions = words @ own["embed_proj.weight"].T, positions @ own["embed_proj.weight"].T
    if projection:  # ELECTRA projects behind its norm, which a student has not: this is the nearest
        words, positions = words @ projection["weight"].T, positions @ projection["weight"].T + projection["bias"]
        scale, shift = torch.ones(encoder.width), torch.zeros(encoder.width)
    return dict(zip(_EMBEDDINGS, (words, positions, scale, shift), strict=True))


def _weights_of(module: nn.Module) -> dict[str, Tensor]:
    # A trained tower is on the device, and so is the encoder once it has run there.
    return {name: weight.cpu() for name, weight in module.state_dict().items()}


def strongest_components(
    layers: Sequence[Mapping[str, Tensor]], embeddings: Mapping[str, Tensor], width: int
) -> Tensor:
    """Return the (W,) components of the hidden states that the LayerNorms of all layers scale most, ascending.

    Args:
        layers: The teacher's, by DistilBERT's names.
        embeddings: The teacher's, whose norm is read where there are no layers.
        width: How many.
    """
    names = (f"{DISTILBERT.attention_norm}.weight", f"{DISTILBERT.norm}.weight")
    norms = [layer[name] for layer in layers for name in names] or [embeddings["LayerNorm.weight"]]
    return torch.stack(norms).square().sum(0).topk(width).indices.sort().values


def _narrow(weights: Mapping[str, Tensor], kept: Tensor, config: DistilBertConfig) -> dict[str, Tensor]:
    """Return the weights on the (W,) kept components, with the heads and neurons that write most to them."""
    narrow = {name: w[..., kept] for name, w in weights.items() if "_embeddings." in name or "orm." in name}
    for layer in range(config.n_layers):
        prefix = f"transformer.layer.{layer}."
        if f"{prefix}ffn.lin1.weight" not in weights:
            continue
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
