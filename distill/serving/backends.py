"""Runs a student's encoder, in torch or ONNX Runtime, on batches of texts.

Texts are tokenized together, sorted by length, and padded only within a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from distill.export.manifest import GRAPHS
from distill.serving.loader import ExportedStudent
from distill.serving.onnx_tower import OnnxGraph
from distill.student import project
from storage.errors import InputError
from studies.config.definition import Format
from studies.model.device import device, device_settings, fast_bf16
from studies.model.encoder import Ragged, by_length
from studies.model.pooling import Pooling, pool
from studies.model.text_coverage import measure
from studies.progress import Progress
from studies.text_form import normalise_text, split_pair, token_batches

# For type checkers alone: ONNX Runtime serves without transformers.
if TYPE_CHECKING:
    from transformers import DistilBertModel

log = logging.getLogger(__name__)

Backend = Literal["torch", "onnx", "onnx-int8"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]
# Returns the (n, D) vectors of texts, and reports progress.
Embed = Callable[[Sequence[str], Progress | None], Tensor]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Texts that are tokenized at a time: the tokenizer's records of a whole catalogue take more memory than its vectors.
_TOKENIZED = 8192


class Encoder(Protocol):
    """Runs a batch; several threads may at once."""

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (B, D) fp32 vectors of length 1, on the device, of (B, L) token ids and their mask, on the CPU."""


class TorchEncoder:
    """The encoder in torch, on the GPU where there is one.

    Args:
        model: The encoder's layers; converted where the precision is not fp32.
        projection: From its vectors to the head's, where these are wider.
        pooling: What of the states of a text's tokens becomes its vector.
        precision: Of weights and products; pooling and what follows it is fp32.
    """

    def __init__(
        self, model: DistilBertModel, projection: nn.Linear | None, pooling: Pooling, precision: Precision
    ) -> None:
        converted: Any = model.train(False)
        self._model: Any = converted.to(device(), _fast_here() if precision == "auto" else _DTYPES[precision])
        self._projection = None if projection is None else projection.to(device())
        self._pooling: Pooling = pooling

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See `Encoder`."""
        ids, mask = ids.to(device()), mask.to(device())
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return project(pool(hidden, mask, self._pooling), self._projection)


def _fast_here() -> torch.dtype:
    if fast_bf16():
        return torch.bfloat16
    return torch.float16 if device().type == "cuda" else torch.float32


def _open_graph(exported: ExportedStudent, name: Backend) -> OnnxGraph:
    graph = GRAPHS[cast("Format", name)]
    if graph not in exported.manifest.files:
        raise InputError(
            f"{exported.folder} has no {graph}, which backend {name!r} needs; export the study again with "
            f"--format {name}, or use backend 'torch'"
        )
    return OnnxGraph(exported.folder / graph, gpu=True)


def open_encoder(exported: ExportedStudent, backend: Backend, precision: Precision) -> Encoder:
    """Return the encoder of an export.

    Raises:
        InputError: An unknown backend or precision, a precision that the backend does not have, a graph that the
            export does not hold, or ONNX Runtime is not installed.
    """
    for value, kind, name in ((backend, Backend, "backend"), (precision, Precision, "precision")):
        if value not in get_args(kind):
            raise InputError(f"{name} = {value!r}; accepted: {', '.join(get_args(kind))}")
    if backend == "torch":
        return TorchEncoder(exported.model, exported.projection, exported.manifest.pooling, precision)
    if precision not in ("fp32", "auto"):
        raise InputError(
            f"precision {precision!r} is not for backend {backend!r}, whose graph has its own; leave it out, or use "
            "backend 'torch'"
        )
    return _open_graph(exported, backend)


class Embedder:
    """Texts to vectors; several threads may embed at once.

    Args:
        exported: Its tokenizer is used.
        encoder: Reads the tokens.
        wrap: Given what embeds texts, returns what does so in its place; as it is if left out.
    """

    def __init__(
        self, exported: ExportedStudent, encoder: Encoder, wrap: Callable[[Embed], Embed] | None = None
    ) -> None:
        self._through: Embed = self._embed if wrap is None else wrap(self._embed)
        self._encoder, self._source = encoder, f"the encoder of {exported.folder}"
        self._exported, self._warned = exported, False
        self.width = exported.manifest.dimensions
        # The Rust tokenizer: the Python one around it sets truncation at every call, which threads cannot share.
        self._tokenizer: Any = exported.tokenizer.backend_tokenizer
        self._max_tokens, self._prefix = exported.max_tokens, exported.prefix

    def tokens(self, texts: Sequence[str]) -> Ragged:
        """Return the token ids of each text in its one form, truncated, as `studies.model.encoder.tokenize` does."""
        values, lengths = [], [0]
        for encodings in self._encodings(texts):
            rows = [encoding.ids for encoding in encodings]
            lengths += [len(row) for row in rows]
            values.append(np.fromiter(chain.from_iterable(rows), dtype=np.int64))
        return Ragged(torch.from_numpy(np.concatenate(values)), torch.tensor(lengths).cumsum(0))

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many texts have more tokens than the encoder reads."""
        return sum(bool(encoding.overflowing) for encodings in self._encodings(texts) for encoding in encodings)

    def _encodings(self, texts: Sequence[str]) -> Iterator[list[Any]]:
        """Yield the tokenizer's records of the texts in their one form, of many texts at a time."""
        normal = [self._prefix + normalise_text(text) for text in texts]
        for batch in token_batches(normal, self._max_tokens, _TOKENIZED):
            parts = [split_pair(text) for text in batch]
            yield self._tokenizer.encode_batch_fast([each if len(each) == 2 else each[0] for each in parts])

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return (n, D) vectors of length 1 in the order of the texts, on the device.

        Args:
            texts: Any texts; a repeated one is encoded again.
            progress: Called with (texts done, texts in all).

        Raises:
            InputError: The encoder does not give a vector of finite numbers for each text.
        """
        return self._through(texts, progress)

    def _embed(self, texts: Sequence[str], progress: Progress | None) -> Tensor:
        vectors = torch.empty(len(texts), self.width, device=device())
        if not texts:
            return vectors
        tokens, done = self.tokens(texts), 0
        self._warn_of_lost(tokens)
        for rows in by_length(tokens.lengths, device_settings().serve_tokens):
            found = self._encoder(*tokens.padded(rows, torch.device("cpu")))
            if found.shape != (len(rows), self.width):
                raise InputError(f"{self._source} gives vectors of a size that its head does not read: export it again")
            vectors[rows.to(device())] = found
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
        if not bool(vectors.isfinite().all()):
            raise InputError(
                f"{self._source} gives vectors that are not finite numbers: use precision 'fp32', or export the study "
                "again"
            )
        return vectors

    def _warn_of_lost(self, tokens: Ragged) -> None:
        """Say in the log that most of some texts is lost on the encoder; once, since a server is asked often."""
        if self._warned:
            return
        read = measure(self._exported.tokenizer, tokens, self._max_tokens, self._prefix)
        if (loss := read.illegible()) is not None:
            self._warned = True
            log.warning(
                "warning: %s loses most of %d texts: %s; distil a student from a teacher of their language",
                self._source,
                len(tokens),
                loss,
            )
