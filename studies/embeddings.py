"""Texts read once: activations of the frozen layers, cached on disk and shared by all trials and workers.

A trial that trains the top n layers of the encoder needs the hidden states below them; a frozen one needs only the
pooled output. Both depend on nothing a trial changes, so one pass computes them and every process maps the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from storage.atomic import atomic_folder
from studies.device import autocast, device, fast_bf16
from studies.encoder import Encoder, Ragged, by_length, pool, run_layers

Progress = Callable[[int, int], None]


class EmbeddingCache:
    """Activations of one set of texts under one encoder.

    Args:
        folder: where caches live; one folder below it per key (encoder, tokens, depth and precision).
        encoder: the frozen encoder.
        tokens: the texts' token ids.
    """

    def __init__(self, folder: Path, encoder: Encoder, tokens: Ragged) -> None:
        self._folder, self._encoder, self._tokens = folder, encoder, tokens
        digest = hashlib.sha256(tokens.values.numpy().tobytes() + tokens.offsets.numpy().tobytes())
        digest.update(f"{encoder.identity} bf16={fast_bf16()}".encode())
        self._key = digest.hexdigest()[:24]

    def build(self, trainable_layers: Collection[int], progress: Progress | None = None) -> None:
        """Computes what is missing for trials that train any of these numbers of layers, in one pass.

        Safe with several processes: one computes while the others wait. Ctrl-C leaves nothing half-written.

        Args:
            trainable_layers: numbers of top layers that trials train; 0 for a frozen encoder.
            progress: called with (texts done, texts in all).
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / f"{self._key}.lock"):
            missing = [n for n in sorted(set(trainable_layers)) if not self._path(n).exists()]
            if missing:
                self._compute(missing, progress)

    def pooled(self) -> Tensor:
        """(texts, D) fp32 embeddings of the frozen encoder."""
        return torch.from_numpy(np.load(self._path(0) / "pooled.npy", mmap_mode="c"))

    def hidden(self, trainable_layers: int) -> Ragged:
        """Hidden states that enter the top `trainable_layers` layers: ragged bf16 of shape (tokens, D)."""
        raw = np.load(self._path(trainable_layers) / "hidden.npy", mmap_mode="c")
        return Ragged(torch.from_numpy(raw).view(torch.bfloat16), self._tokens.offsets)

    def _path(self, trainable_layers: int) -> Path:
        return self._folder / f"{self._key}-top{trainable_layers}"

    @torch.inference_mode()
    def _compute(self, missing: list[int], progress: Progress | None) -> None:
        model, tokens, depth = self._encoder.model, self._tokens, self._encoder.layers
        model.to(device())  # type: ignore[arg-type]  # transformers wraps it in an untyped decorator
        split_after = {depth - n: n for n in missing if n}
        width = self._encoder.width
        hidden = {n: np.empty((len(tokens.values), width), np.int16) for n in missing if n}
        pooled = np.empty((len(tokens), width), np.float32)
        last = depth if 0 in missing else max(split_after)
        done = 0
        for rows in by_length(tokens.lengths):
            ids, mask = tokens.padded(rows, device())
            with autocast():
                state = model.embeddings(input_ids=ids)
                for below in range(last + 1):
                    if n := split_after.get(below):
                        hidden[n][_flat(tokens, rows)] = _bits(state[mask])
                    if below < last:
                        state = run_layers(nn.ModuleList([model.encoder.layer[below]]), state, mask)
            if 0 in missing:
                pooled[rows.numpy()] = pool(state, mask).cpu().numpy()
            done += len(rows)
            if progress is not None:
                progress(done, len(tokens))
        for n in missing:
            with atomic_folder(self._path(n)) as folder:
                if n:
                    np.save(folder / "hidden.npy", hidden[n])
                else:
                    np.save(folder / "pooled.npy", pooled)


def _flat(tokens: Ragged, rows: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Positions in the ragged values of the tokens of `rows`, row after row."""
    starts, lengths = tokens.offsets[rows], tokens.lengths[rows]
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    return (torch.repeat_interleave(starts, lengths) + within).numpy()


def _bits(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    # numpy has no bfloat16: the same 16 bits travel as int16.
    bits: np.ndarray[tuple[int, int], np.dtype[np.int16]] = (
        values.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
    )
    return bits
