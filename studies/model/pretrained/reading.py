"""Reads a pretrained encoder's model, and checks that it has room for what its study reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from storage.errors import InputError
from studies.config.definition import TeacherSection
from studies.model.device import device_settings
from studies.model.pretrained.architectures import architecture_of, first_position

# transformers is imported in functions, since it takes seconds to import and cached encoders do not need its models.
if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def read_model(teacher: TeacherSection, source: Path | str) -> PreTrainedModel:
    """Return the model without its pooler, in fp32 and in evaluation mode.

    Args:
        teacher: The study file's section.
        source: The encoder's folder or hub id.

    Raises:
        InputError: It cannot be read, or its weights do not fit its configuration.
    """
    with named_errors(teacher):
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        row = architecture_of(config, teacher.encoder)
        options: dict[str, Any] = {"add_pooling_layer": False} if row.has_pooler else {}
        model, found = AutoModel.from_pretrained(
            source,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=device_settings().attention if row.has_sdpa else "eager",
            dtype=torch.float32,  # else in that of the folder's weights
            output_loading_info=True,
            **options,
        )
        if found["missing_keys"]:  # transformers fills them with random numbers
            raise ValueError(f"its weights lack {sorted(found['missing_keys'])[0]} of {config.model_type}")
    model.requires_grad_(False).train(False)
    read: PreTrainedModel = model
    return read


@contextmanager
def named_errors(teacher: TeacherSection) -> Iterator[None]:
    """Turn errors of the block into an InputError that names the encoder and what is accepted."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"cannot load teacher.encoder = {teacher.encoder!r}: {_first_line(error)}; accepted: 'minilm' "
            "(bundled), a folder written by save_pretrained (a relative one starts at the study file's folder), or a "
            "hub id (needs a network)"
        ) from error


def read_tokenizer(teacher: TeacherSection, source: Path | str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an encoder.

    Args:
        teacher: The study file's section.
        source: The encoder's folder or hub id.

    Raises:
        InputError: It cannot be read, or not be saved as tokenizer.json, from which exports are served.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # the packages raise nothing more specific
        raise InputError(
            f"cannot read the tokenizer of teacher.encoder = {teacher.encoder!r} ({_first_line(error)}); save it again "
            "with tokenizer.save_pretrained(folder)"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of teacher.encoder = {teacher.encoder!r}, {type(tokenizer).__name__}, cannot be saved as "
            "tokenizer.json, from which exports are served; take an encoder whose tokenizer can"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def quiet_transformers() -> None:
    """Switch off the progress bars and notes of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def check_sizes(
    teacher: TeacherSection, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, prefix: str
) -> None:
    """Raise InputError where the model has no row for a token or a position that texts may have."""
    tokens, rows = max(tokenizer.get_vocab().values()) + 1, config.vocab_size
    if tokens > rows:
        raise InputError(
            f"the tokenizer of teacher.encoder = {teacher.encoder!r} has {tokens} tokens, its model has embeddings of "
            f"{rows}: after adding tokens, call model.resize_token_embeddings(len(tokenizer)), train them, and save "
            "model and tokenizer again"
        )
    if teacher.max_tokens > (positions := config.max_position_embeddings - first_position(config)):
        raise InputError(
            f"teacher.max_tokens = {teacher.max_tokens}, but {teacher.encoder!r} has positions for "
            f"{positions}; set max_tokens to at most that"
        )
    if prefix and (own := len(tokenizer(prefix)["input_ids"])) >= teacher.max_tokens:
        raise InputError(
            f"the prefix {prefix!r} of teacher.encoder = {teacher.encoder!r} takes {own} of the "
            f"teacher.max_tokens = {teacher.max_tokens}, which leaves none to a text; raise max_tokens"
        )


def digest_of(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
