"""Texts read once: activations of the frozen layers, cached on disk and shared by all trials and workers.

A trial that trains the top n layers of the encoder needs the hidden states below them; a frozen one needs only the
pooled output. Both depend on nothing a trial changes, so one pass computes them and every process maps the files.

All studies' activations together take at most 20 GiB of disk, or `HPO_CACHE_GIB` GiB where that variable is set; those
unused for longest make way for new ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import shutil
import weakref
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from storage.errors import InputError
from storage.files.atomic import atomic_folder
from studies.model.device import autocast, device, fast_bf16
from studies.model.encoder import Encoder, Ragged, by_length, pool, run_layers
from studies.progress import Progress

# Raised whenever what an entry holds changes.
FORMAT = 2
DEFAULT_GIB = 20.0
_GIB = 2**30
# What precedes a matrix's values in its file.
_NPY_HEADER = 128
_ENTRY = re.compile(r"[0-9a-f]{24}-top\d+")
# What `atomic_folder` calls the drafts of an entry.
_DRAFT = re.compile(rf"\.{_ENTRY.pattern}\.[0-9a-f]+\.(new|old)")


class ActivationCache:
    """Activations of one set of texts under one encoder.

    What `build` has made or found stays on disk for as long as this object lives: it holds a shared lock on each file,
    which the kernel drops with the process however that ends, and only files that nobody holds are ever removed.

    Args:
        folder: where caches live; one folder below it per key (encoder, tokens, depth and precision).
        encoder: the frozen encoder.
        tokens: the texts' token ids.
    """

    def __init__(self, folder: Path, encoder: Encoder, tokens: Ragged) -> None:
        self._folder, self._encoder, self._tokens = folder, encoder, tokens
        digest = hashlib.sha256(tokens.values.numpy().tobytes() + tokens.offsets.numpy().tobytes())
        digest.update(f"{encoder.identity} bf16={fast_bf16()} format={FORMAT}".encode())
        self._key = digest.hexdigest()[:24]
        self._held = ExitStack()
        weakref.finalize(self, self._held.close)

    def build(self, trainable_layers: Collection[int], progress: Progress | None = None) -> None:
        """Computes what is missing for trials that train any of these numbers of layers, in one pass.

        Safe with several processes: one computes while the others wait. Ctrl-C leaves nothing half-written.

        Args:
            trainable_layers: numbers of top layers that trials train; 0 for a frozen encoder.
            progress: called with (texts done, texts in all).

        Raises:
            InputError: `HPO_CACHE_GIB` is no size, or what is missing fits neither it nor the disk; nothing was
                computed or removed then.
        """
        limit = cache_limit()
        wanted = sorted(set(trainable_layers))
        # Found without the lock: a worker whose activations are there does not wait for another study's to be computed.
        if not (missing := self._missing(wanted)):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # One builder at a time in all the folder: what it finds there is all that counts against the limit.
        with FileLock(self._folder / "activations.lock"):
            if missing := self._missing(missing):
                self._refuse_too_large(wanted, limit)
                _make_room(self._folder, sum(self._size(n) for n in missing), limit)
                self._compute(missing, progress)
                self._missing(missing)  # holds them before others may make room

    def pooled(self) -> Tensor:
        """(texts, D) fp32 embeddings of the frozen encoder."""
        return torch.from_numpy(np.load(self._file(0), mmap_mode="c"))

    def hidden(self, trainable_layers: int) -> Ragged:
        """What enters the top `trainable_layers` layers: ragged bf16 of shape (tokens, D).

        Hidden states; for all layers of the encoder, the rows of its word embeddings, before positions, token types
        and LayerNorm, so that everything but the table of words can train.
        """
        raw = np.load(self._file(trainable_layers), mmap_mode="c")
        return Ragged(torch.from_numpy(raw).view(torch.bfloat16), self._tokens.offsets)

    def _file(self, trainable_layers: int) -> Path:
        return _file_of(self._folder / f"{self._key}-top{trainable_layers}")

    def _layout(self, trainable_layers: int) -> tuple[tuple[int, int], type[np.generic]]:
        """Shape and type of an entry's matrix."""
        if trainable_layers == 0:
            return (len(self._tokens), self._encoder.width), np.float32
        # numpy has no bfloat16: the same 16 bits travel as int16.
        return (len(self._tokens.values), self._encoder.width), np.int16

    def _size(self, trainable_layers: int) -> int:
        shape, kind = self._layout(trainable_layers)
        return math.prod(shape) * np.dtype(kind).itemsize + _NPY_HEADER

    def _missing(self, wanted: Collection[int]) -> list[int]:
        """Those of `wanted` that are not there; the others are held from now on."""
        return [n for n in wanted if not self._hold(n)]

    def _hold(self, trainable_layers: int) -> bool:
        """Whether the entry is there; it counts as just used and stays until this object goes."""
        try:
            descriptor = os.open(self._file(trainable_layers), os.O_RDONLY)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:  # removed between opening and locking
            os.close(descriptor)
            return False
        self._held.callback(os.close, descriptor)
        os.utime(descriptor)
        return True

    def _refuse_too_large(self, wanted: Collection[int], limit: int) -> None:
        if (needed := sum(self._size(n) for n in wanted)) > limit:
            raise InputError(
                f"the encoder's activations for trainable_layers {', '.join(map(str, wanted))} need {_gib(needed)} GiB "
                f"({len(self._tokens.values):,} tokens of {len(self._tokens):,} texts), but the cache may hold "
                f"{limit / _GIB:g} GiB; set HPO_CACHE_GIB to {_gib(needed)} or more, lower teacher.max_tokens, or "
                "search fewer values of trainable_layers"
            )

    @torch.inference_mode()
    def _compute(self, missing: Collection[int], progress: Progress | None) -> None:
        self._encoder.model.to(device())  # type: ignore[arg-type]  # transformers wraps it in an untyped decorator
        with ExitStack() as drafts:
            into = {}
            for n in missing:
                file = self._file(n)
                folder = drafts.enter_context(atomic_folder(file.parent))
                into[n] = _create(folder / file.name, *self._layout(n))
            done = 0
            for rows in by_length(self._tokens.lengths):
                self._encode(rows, into)
                done += len(rows)
                if progress is not None:
                    progress(done, len(self._tokens))
            for matrix in into.values():
                matrix.flush()

    def _encode(self, rows: Tensor, into: dict[int, np.memmap[Any, Any]]) -> None:
        """Runs (R,) texts through the encoder, as far as asked, and writes what enters each depth asked for."""
        model, tokens, depth = self._encoder.model, self._tokens, self._encoder.layers
        ids, mask = tokens.padded(rows, device())
        last = depth - min(into)
        with autocast():
            words = model.embeddings.word_embeddings(ids)
            state = model.embeddings(inputs_embeds=words)
            for below in range(last + 1):
                if below < depth and depth - below in into:
                    into[depth - below][tokens.positions(rows).numpy()] = _bits((state if below else words)[mask])
                if below < last:
                    state = run_layers(model.encoder.layer[below : below + 1], state, mask)
        if 0 in into:
            into[0][rows.numpy()] = pool(state, mask).cpu().numpy()


def cache_limit() -> int:
    """Bytes that all cached activations together may take: `$HPO_CACHE_GIB` GiB, or 20 GiB where it is not set.

    Raises:
        InputError: it is set to something that is not a positive number.
    """
    given = os.environ.get("HPO_CACHE_GIB") or str(DEFAULT_GIB)
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise InputError(
            f"HPO_CACHE_GIB = {given!r}: it must be a positive number, the GiB of disk that cached activations may "
            f"take ({DEFAULT_GIB:g} where it is not set)"
        )
    return int(limit * _GIB)


def _make_room(folder: Path, needed: int, limit: int) -> None:
    """Removes the entries unused for longest until `needed` bytes fit; the caller holds the folder's lock.

    Raises:
        InputError: they would not fit were every entry that nobody uses removed; none is removed then.
    """
    size = _entries(folder)
    with ExitStack() as claims:
        idle = [file for file in size if _claim(file, claims)]
        removable, free = sum(size[file] for file in idle), shutil.disk_usage(folder).free
        kept = sum(size.values()) - removable
        if needed > free + removable:
            raise InputError(
                f"the encoder's activations need {_gib(needed)} GiB more, but the disk of {folder} has room for "
                f"{(free + removable) / _GIB:.2f} GiB; free disk space there, lower teacher.max_tokens, or search "
                "fewer values of trainable_layers"
            )
        if kept + needed > limit:
            raise InputError(
                f"the encoder's activations need {_gib(needed)} GiB more, but {_gib(kept)} of the {limit / _GIB:g} GiB "
                "that the cache may hold are in use; wait until other studies end, or set HPO_CACHE_GIB to "
                f"{_gib(kept + needed)} or more"
            )
        excess = max(kept + removable + needed - limit, needed - free)
        for file in idle:
            if excess <= 0:
                break
            shutil.rmtree(file.parent)
            excess -= size[file]


def _entries(folder: Path) -> dict[Path, int]:
    """Sizes in bytes of the entries' files, those unused for longest first; removes what a killed process left."""
    files = []
    for path in folder.iterdir():
        entry = _ENTRY.fullmatch(path.name)
        if entry and _file_of(path).exists():
            files.append(_file_of(path))
        elif entry or _DRAFT.fullmatch(path.name):
            shutil.rmtree(path)  # whoever was making or removing it is gone, or we would not have the lock
    return {file: file.stat().st_size for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)}


def _claim(file: Path, claims: ExitStack) -> bool:
    """Whether nobody uses the entry of `file`; nobody can begin to until `claims` is closed."""
    # Network file systems lock exclusively only what is open for writing.
    descriptor = os.open(file, os.O_RDWR)
    claims.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(file: Path, shape: tuple[int, int], kind: DTypeLike) -> np.memmap[Any, Any]:
    """A matrix in a new file, to be written through memory, with its disk space reserved."""
    matrix = np.lib.format.open_memmap(file, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):
        # Running out of space while writing through memory is not an error one can catch: it kills the process.
        with file.open("r+b") as opened:
            try:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
            except OSError as error:
                raise InputError(
                    f"cannot reserve {_gib(file.stat().st_size)} GiB for activations in {file.parents[1]} "
                    f"({error.strerror}); free disk space there, or set HPO_HOME to a folder on another disk"
                ) from error
    return matrix


def _file_of(entry: Path) -> Path:
    return entry / ("pooled.npy" if entry.name.endswith("-top0") else "hidden.npy")


def _gib(size: int) -> str:
    # Rounded up, so that a limit copied from a message is enough.
    return f"{math.ceil(size / _GIB * 100) / 100:.2f}"


def _bits(values: Tensor) -> NDArray[np.int16]:
    bits: NDArray[np.int16] = values.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy()
    return bits
