"""Reads an export's encoder and tokenizer from files that may come from anyone.

transformers' `from_pretrained` would follow what such files say: to other classes, kernels and folders, and to a hub.
Here the configuration is parsed into the values that a DistilBERT is made of, each within bounds, and the model and the
tokenizer are built from these, the weights' file and tokenizer.json alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.export import bounds
from distill.export.manifest import Manifest
from distill.serving.tensors import read_tensors
from storage.errors import InputError
from studies.evaluation.figures import misfit
from studies.model.pretrained.reading import quiet_transformers

# transformers is imported where a model or tokenizer is opened: ONNX Runtime serves without its models.
if TYPE_CHECKING:
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerBase

_Fraction = Annotated[float, Field(ge=0, le=1)]


class EncoderConfig(BaseModel):
    """The part of config.json that a student's encoder is built from; other keys say nothing to it.

    `attention` must be one that transformers brings along: another name makes transformers fetch a kernel.
    """

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model_type: Literal["distilbert"]
    vocab_size: bounds.VocabularyRows
    max_position_embeddings: Annotated[int, Field(ge=4, le=2**16)]
    n_layers: bounds.Layers
    n_heads: Annotated[int, Field(ge=1, le=bounds.MAX_WIDTH)]
    dim: bounds.Width
    hidden_dim: Annotated[int, Field(ge=1, le=8 * bounds.MAX_WIDTH)]
    activation: Annotated[str, Field(max_length=40)] = "gelu"
    dropout: _Fraction = 0.1
    attention_dropout: _Fraction = 0.1
    pad_token_id: Annotated[int, Field(ge=0)] | None = 0
    attention: Annotated[
        Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None,
        Field(validation_alias=AliasChoices("attn_implementation", "_attn_implementation"), exclude=True),
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> EncoderConfig:
        if self.dim % self.n_heads:
            raise ValueError(f"dim = {self.dim} is no multiple of n_heads = {self.n_heads}")
        if (self.pad_token_id or 0) >= self.vocab_size:
            raise ValueError(f"pad_token_id = {self.pad_token_id} is none of the {self.vocab_size} tokens")
        return self


def read_config(folder: Path, manifest: Manifest) -> EncoderConfig:
    """Return the configuration of an export's encoder.

    Raises:
        InputError: It is no DistilBERT's, a value is out of bounds, or it differs from the manifest.
    """
    path = folder / "config.json"
    try:
        config = EncoderConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): export the study again") from error
    except ValidationError as error:
        raise InputError(f"{path} describes no student's encoder ({misfit(error)}): export the study again") from error
    found = (config.n_layers, config.dim, config.vocab_size)
    if found != (manifest.layers, manifest.width, manifest.vocabulary.kept):
        raise InputError(
            f"{path} describes {found[0]} layers of width {found[1]} with {found[2]} tokens, the manifest "
            f"{manifest.layers}, {manifest.width} and {manifest.vocabulary.kept}: export the study again"
        )
    if manifest.max_tokens > config.max_position_embeddings:
        raise InputError(
            f"{path} has {config.max_position_embeddings} positions, fewer than the {manifest.max_tokens} tokens of a "
            "text in the manifest: export the study again"
        )
    return config


def read_encoder(folder: Path, manifest: Manifest) -> DistilBertModel:
    """Return the encoder of an export, in fp32 however its weights are stored, in evaluation mode.

    Raises:
        InputError: See `read_config`; or its weights do not fit its configuration or are not finite.
    """
    from transformers import DistilBertConfig, DistilBertModel

    quiet_transformers()
    checked = read_config(folder, manifest)
    config = DistilBertConfig(**checked.model_dump())
    form, own = manifest.form, _shapes(folder, config)
    shapes = {f"{form.encoder_prefix}{name}": shape for name, shape in own.items()}
    stored = read_tensors(folder / "model.safetensors", shapes | form.stored_shapes(config.dim, len(manifest.labels)))
    weights = {name: stored[f"{form.encoder_prefix}{name}"] for name in own}
    return DistilBertModel.from_pretrained(None, config=config, state_dict=weights, dtype=torch.float32)


def _shapes(folder: Path, config: DistilBertConfig) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of all weights, without making any."""
    from transformers import DistilBertModel

    try:
        with torch.device("meta"):
            blank = DistilBertModel(config)
    except KeyError as error:
        raise InputError(
            f"{folder / 'config.json'} has the unknown activation {config.activation!r}: export the study again"
        ) from error
    return {name: tuple(weight.shape) for name, weight in blank.state_dict().items()}


def read_tokenizer(folder: Path, manifest: Manifest) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an export.

    Raises:
        InputError: tokenizer.json is not a tokenizer's, or has ids for which the encoder has no row.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    quiet_transformers()
    path = folder / "tokenizer.json"
    try:
        tokenizer: Any = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(manifest.max_tokens)
        # The template's own tokens are in every text.
        ids = [*tokenizer.encode("a").ids, *tokenizer.get_vocab(with_added_tokens=True).values()]
    except Exception as error:  # the package raises nothing more specific
        raise InputError(f"{path} is not a tokenizer's file ({error}): export the study again") from error
    if max(ids) >= manifest.vocabulary.kept:
        raise InputError(
            f"{path} has the token id {max(ids)}, but the encoder has {manifest.vocabulary.kept} tokens: export the "
            "study again"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
