"""The registry of encoder architectures: how each is split into frozen and trained layers.

One row per `model_type` of transformers says where the layers are, what they share, and how one is called. A row also
names the parts of a layer that have a counterpart in DistilBERT, from which students start. An architecture whose
layers take the same two arguments as BERT's, a state and an additive mask, needs only names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from storage.errors import InputError

# For type checkers alone: transformers takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Runs one layer on (B, L, D) states.
RunLayer = Callable[[nn.Module, Tensor], Tensor]
# Returns what runs a layer, of the module that all layers share, the (B, L, D) states and their (B, L) mask.
Prepare = Callable[[Any, Tensor, Tensor], RunLayer]


def additive_mask(mask: Tensor, hidden: Tensor) -> Tensor:
    """Return the (B, 1, 1 or L, L) mask that is added to attention scores, of a (B, L) or (B, L, L) mask.

    An additive float mask is the only form that eager, SDPA and vmap all interpret correctly.
    """
    wide = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
    additive = torch.zeros(wide.shape, dtype=hidden.dtype, device=hidden.device)
    return additive.masked_fill(~wide, torch.finfo(hidden.dtype).min)


def plain(shared: Any, hidden: Tensor, mask: Tensor) -> RunLayer:
    """Prepare layers that take a state and a mask, as BERT's."""
    additive = additive_mask(mask, hidden)
    return lambda layer, state: layer(state, additive)


def _mpnet(shared: Any, hidden: Tensor, mask: Tensor) -> RunLayer:
    # Song et al. 2020: one bias by the distance of two tokens, the same in all layers.
    additive, bias = additive_mask(mask, hidden), shared.compute_position_bias(hidden)
    return lambda layer, state: layer(state, additive, bias)[0]


def _deberta(shared: Any, hidden: Tensor, mask: Tensor) -> RunLayer:
    # He et al. 2021: each layer projects the same vectors of relative positions. Its mask is boolean.
    visible, distances, vectors = mask[:, None, None, :], shared.get_rel_pos(hidden), shared.get_rel_embedding()
    return lambda layer, state: layer(state, visible, relative_pos=distances, rel_embeddings=vectors)[0]


def _modernbert(shared: Any, hidden: Tensor, mask: Tensor) -> RunLayer:
    # Warner et al. 2024: rotary positions; most layers attend to a window of neighbours.
    places = torch.arange(hidden.shape[1], device=hidden.device)
    near = (places[:, None] - places).abs() <= shared.config.sliding_window
    masks = {
        "full_attention": additive_mask(mask, hidden),
        "sliding_attention": additive_mask(mask[:, None, :] & near, hidden),
    }
    rotations = {kind: shared(hidden, places[None], kind) for kind in shared.layer_types}

    def run(layer: Any, state: Tensor) -> Tensor:
        kind = layer.attention_type
        found: Tensor = layer(state, attention_mask=masks[kind], position_embeddings=rotations[kind])
        return found

    return run


class LayerParts(NamedTuple):
    """Names of a layer's parts, of one whose norms follow the residual sums, as BERT's and DistilBERT's do."""

    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    norm: str


_BERT = LayerParts(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
DISTILBERT = LayerParts(
    "attention.q_lin",
    "attention.k_lin",
    "attention.v_lin",
    "attention.out_lin",
    "sa_layer_norm",
    "ffn.lin1",
    "ffn.lin2",
    "output_layer_norm",
)


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        parts: Names of a layer's parts; None where a DistilBERT layer has no counterpart of them.
        layers: Path of the list of layers in the model.
        shared: Path of the module that all layers share; "" where there is none.
        final: Path of the norm behind the last layer; "" where there is none.
        prepare: Prepares the call of layers.
        has_pooler: Whether the model takes `add_pooling_layer`; no pooler is ever used.
        has_sdpa: Whether its layers have the attention kernel SDPA beside the eager one.
        first_position: Row of the position table that the first token has; `PADDING` for the one behind padding's.
        unlike: What a DistilBERT lacks of it, in words; "" where a student of full depth computes the same.
        extra: Elements that a layer holds of a token beside those of BERT's, of the configuration and the number of
            tokens of the longest text.
    """

    parts: LayerParts | None = _BERT
    layers: str = "encoder.layer"
    shared: str = ""
    final: str = ""
    prepare: Prepare = plain
    has_pooler: bool = False
    has_sdpa: bool = True
    first_position: int = 0
    unlike: str = ""
    extra: Callable[[Any, int], int] = lambda config, longest: 0


def _mpnet_extra(config: Any, longest: int) -> int:
    """Return the elements of the bias."""
    return int(config.num_attention_heads * longest)


def _deberta_extra(config: Any, longest: int) -> int:
    """Return the elements of the products with all relative positions, from both sides, and of those gathered."""
    span = config.position_buckets if config.position_buckets > 0 else config.max_position_embeddings
    return int(2 * config.num_attention_heads * (2 * span + 2 * longest))


def _modernbert_extra(config: Any, longest: int) -> int:
    """Return the elements of gates, and of rotated queries and keys."""
    return int(2 * config.intermediate_size + 8 * config.hidden_size)


PADDING = -1
_ROBERTA = Architecture(has_pooler=True, first_position=PADDING)
_DEBERTA_PARTS = _BERT._replace(
    query="attention.self.query_proj", key="attention.self.key_proj", value="attention.self.value_proj"
)
_MPNET_PARTS = _BERT._replace(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
)

# By model_type.
ARCHITECTURES = {
    "bert": Architecture(has_pooler=True),
    "distilbert": Architecture(parts=DISTILBERT, layers="transformer.layer"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Architecture(),
    "mpnet": Architecture(
        parts=_MPNET_PARTS,
        shared="encoder",
        prepare=_mpnet,
        has_pooler=True,
        has_sdpa=False,
        first_position=2,
        unlike="the relative positions of its attention",
        extra=_mpnet_extra,
    ),
    "deberta-v2": Architecture(
        parts=_DEBERTA_PARTS,
        shared="encoder",
        prepare=_deberta,
        has_sdpa=False,
        unlike="the relative positions of its attention",
        extra=_deberta_extra,
    ),
    "modernbert": Architecture(
        parts=None,
        layers="layers",
        shared="rotary_emb",
        final="final_norm",
        prepare=_modernbert,
        extra=_modernbert_extra,
    ),
}

# Names of one value in the configurations of different architectures.
_NAMES = {
    "feed_forward": ("intermediate_size", "hidden_dim"),
    "activation": ("hidden_act", "activation", "hidden_activation"),
    "dropout": ("hidden_dropout_prob", "dropout", "mlp_dropout"),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout"),
}


def setting(config: PreTrainedConfig, name: str) -> Any:
    """Return a value of a configuration, whatever its architecture calls it: `feed_forward`, `activation`, ..."""
    return next(getattr(config, known) for known in _NAMES[name] if hasattr(config, known))


def word_width(config: PreTrainedConfig) -> int:
    """Return the size of a word embedding, which is not that of a hidden state in ELECTRA-small."""
    return int(getattr(config, "embedding_size", None) or config.hidden_size)


def first_position(config: PreTrainedConfig) -> int:
    """Return the row of the position table that the first token has."""
    row = ARCHITECTURES[config.model_type].first_position
    return int(config.pad_token_id) + 1 if row == PADDING else row


def has_positions(config: PreTrainedConfig) -> bool:
    """Return whether an encoder adds a table of positions to its words."""
    return config.model_type != "modernbert" and bool(getattr(config, "position_biased_input", True))


def unlike(config: PreTrainedConfig) -> str:
    """Return what a student, a DistilBERT, starts without of an encoder, in words; "" where it is nothing."""
    row = ARCHITECTURES[config.model_type]
    if row.parts is None:
        return "its layers: it starts from its word embeddings and random layers"
    lost = [row.unlike] if row.unlike else []
    if config.model_type == "electra" and word_width(config) != config.hidden_size:
        lost.append("the norm between its word embeddings and their projection")
    return " and ".join(lost)


def architecture_of(config: PreTrainedConfig, name: str) -> Architecture:
    """Return the row of a configuration.

    Args:
        config: The encoder's.
        name: Its name in the study file.

    Raises:
        InputError: Its layers cannot be split into frozen and trained ones.
    """
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise InputError(
            f"teacher.encoder = {name!r} is a {config.model_type!r} model, whose layers cannot be split into frozen "
            f"and trained ones; the teacher must be one of {', '.join(ARCHITECTURES)} (such as minilm or "
            "bert-base-uncased)"
        )
    if getattr(config, "conv_kernel_size", 0):
        raise InputError(
            f"teacher.encoder = {name!r} is a DeBERTa whose first layer has a convolution, as the xlarge ones of its "
            "version 2, which is not supported; take one of version 3"
        )
    if getattr(config, "is_decoder", False):
        raise InputError(
            f"teacher.encoder = {name!r} is a decoder (is_decoder in config.json), whose tokens see only those before "
            "them; the teacher must be an encoder"
        )
    return found
