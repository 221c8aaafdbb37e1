"""Activations of the frozen layers, cached on disk and shared by all trials and workers.

A trial that trains the top n layers of the encoder needs the hidden states below them; a trial with a frozen encoder
needs only the pooled output. Neither depends on the trial, so one pass computes both and every process maps the files.

All studies' activations take at most 20 GiB of disk (`HPO_CACHE_GIB`); the least recently used are removed.
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
from storage.files.cache_entries import damage, new_entry, warn
from studies.model.device import autocast, device, device_settings, uses_bf16
from studies.model.encoder import Encoder, Ragged, by_length
from studies.model.pooling import pool
from studies.progress import Progress

# Increase it whenever the contents of an entry change.
FORMAT = 3
DEFAULT_GIB = 20.0
_GIB = 2**30
# Bytes before a matrix's values in its file.
_NPY_HEADER = 128
_ENTRY = re.compile(r"[0-9a-f]{24}-top\d+")
# Names of the drafts of an entry.
_DRAFT = re.compile(rf"\.{_ENTRY.pattern}\.[0-9a-f]+\.(new|old)")


class ActivationCache:
    """Activations of one set of texts under one encoder.

    The entries that `build` made or found stay on disk while this object exists: it holds a shared lock on each file,
    which the kernel releases when the process ends in any way, and only files without locks are removed. Each is
    compared with its digest once, before its first use.

    Args:
        folder: Folder of the cache; each entry is a folder in it, by encoder, tokens, depth and precision.
        encoder: The frozen encoder.
        tokens: Token ids of the texts.
    """

    def __init__(self, folder: Path, encoder: Encoder, tokens: Ragged) -> None:
        self._folder, self._encoder, self._tokens = folder, encoder, tokens
        digest = hashlib.sha256(tokens.values.numpy().tobytes() + tokens.offsets.numpy().tobytes())
        digest.update(f"{encoder.identity} bf16={uses_bf16()} format={FORMAT}".encode())
        self._key = digest.hexdigest()[:24]
        self._held, self._locks = set[int](), ExitStack()
        weakref.finalize(self, self._locks.close)

    def build(self, trainable_layers: Collection[int], progress: Progress | None = None) -> None:
        """Compute the missing or damaged entries for trials that train any of these numbers of layers, in one pass.

        Safe with several processes: one computes while the others wait. An interruption leaves no partial entry.

        Args:
            trainable_layers: Numbers of top layers that trials train; 0 for a frozen encoder.
            progress: Called with (texts done, texts in all).

        Raises:
            InputError: `HPO_CACHE_GIB` is not a size, or the missing entries do not fit its limit or the disk; nothing
                is computed or removed then. Or the disk does not return what was written.
        """
        limit = cache_limit()
        wanted = sorted(set(trainable_layers))
        # Checked without the lock, so that a worker with complete entries does not wait for another study's.
        if not (missing := self._missing(wanted)):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # One process at a time builds in the folder: the limit counts only what it finds there.
        with FileLock(self._folder / "activations.lock"):
            if missing := self._missing(missing, say=True):
                self._refuse_too_large(wanted, limit)
                _make_room(self._folder, sum(self._size(n) for n in missing), limit)
                self._compute(missing, progress)
                if failed := self._missing(missing):  # locks them before another process may remove them
                    raise InputError(f"{self._file(failed[0])} is read back altered: check the disk, or move HPO_HOME")

    def pooled(self) -> Tensor:
        """Return the (texts, D) fp32 embeddings of the frozen encoder."""
        return torch.from_numpy(np.load(self._file(0), mmap_mode="c"))

    def hidden(self, trainable_layers: int) -> Ragged:
        """Return the input of the top `trainable_layers` layers: ragged bf16 of shape (tokens, D).

        These are hidden states. For all layers of the encoder they are word embeddings before positions, token types
        and LayerNorm, so that all but the token table can train.
        """
        raw = np.load(self._file(trainable_layers), mmap_mode="c")
        return Ragged(torch.from_numpy(raw).view(torch.bfloat16), self._tokens.offsets)

    def _file(self, trainable_layers: int) -> Path:
        return _file_of(self._folder / f"{self._key}-top{trainable_layers}")

    def _layout(self, trainable_layers: int) -> tuple[tuple[int, int], type[np.generic]]:
        """Return the shape and type of an entry's matrix."""
        if trainable_layers == 0:
            return (len(self._tokens), self._encoder.width), np.float32
        # NumPy has no bfloat16: the same 16 bits are stored as int16.
        return (len(self._tokens.values), self._encoder.width_below(trainable_layers)), np.int16

    def _size(self, trainable_layers: int) -> int:
        shape, kind = self._layout(trainable_layers)
        return math.prod(shape) * np.dtype(kind).itemsize + _NPY_HEADER

    def _missing(self, wanted: Collection[int], *, say: bool = False) -> list[int]:
        """Return those of `wanted` that do not exist or are damaged; the others are locked from now on.

        With `say`, the log says what is damaged, and it is removed unless another process uses it.
        """
        return [n for n in wanted if n not in self._held and not self._hold(n, say=say)]

    def _hold(self, trainable_layers: int, *, say: bool) -> bool:
        """Lock an entry, check it and mark it as used; return whether it exists and is intact."""
        file = self._file(trainable_layers)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:  # removed between opening and locking
            os.close(descriptor)
            return False
        if reason := damage(file.parent):
            os.close(descriptor)
            if say:
                warn(reason)
                with ExitStack() as locks:
                    if _lock_unused(file, locks):
                        shutil.rmtree(file.parent)
            return False
        self._locks.callback(os.close, descriptor)
        self._held.add(trainable_layers)
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
                folder = drafts.enter_context(new_entry(file.parent))
                into[n] = _create(folder / file.name, *self._layout(n))
            done = 0
            for rows in by_length(self._tokens.lengths, device_settings().encode_tokens):
                self._encode(rows, into)
                done += len(rows)
                if progress is not None:
                    progress(done, len(self._tokens))
            for matrix in into.values():
                matrix.flush()

    def _encode(self, rows: Tensor, into: dict[int, np.memmap[Any, Any]]) -> None:
        """Run (R,) texts through the encoder up to the last depth in `into`, and write the input of each depth."""
        encoder, parts, tokens = self._encoder, self._encoder.parts, self._tokens
        ids, mask = tokens.padded(rows, device())
        last = (depth := encoder.layers) - min(into)
        with autocast():
            words = parts.words(ids)
            state = parts.embed(words)
            run = encoder.architecture.prepare(parts.shared, state, mask)
            for below in range(last + 1):
                if below < depth and depth - below in into:
                    into[depth - below][tokens.positions(rows).numpy()] = _bits((state if below else words)[mask])
                if below < last:
                    state = run(parts.layers[below], state)
        if 0 in into:
            into[0][rows.numpy()] = pool(parts.finish(state), mask, encoder.pooling).cpu().numpy()


def cache_limit() -> int:
    """Return the most bytes of all cached activations together: `$HPO_CACHE_GIB` GiB, by default 20.

    Raises:
        InputError: The variable is not a positive number.
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
    """Remove the least recently used entries until `needed` bytes fit; the caller holds the folder's lock.

    Raises:
        InputError: The bytes would not fit without all unused entries either; none is removed then.
    """
    size = _entries(folder)
    with ExitStack() as locks:
        idle = [file for file in size if _lock_unused(file, locks)]
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
    """Return the bytes of each entry's file, least recently used first; remove drafts of killed processes."""
    files = []
    for path in folder.iterdir():
        entry = _ENTRY.fullmatch(path.name)
        if entry and _file_of(path).exists():
            files.append(_file_of(path))
        elif entry or _DRAFT.fullmatch(path.name):
            shutil.rmtree(path)  # its process has ended, since the caller holds the lock
    return {file: file.stat().st_size for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)}


def _lock_unused(file: Path, locks: ExitStack) -> bool:
    """Return whether the entry of `file` is unused; if so, it stays locked until `locks` is closed."""
    # Network file systems need a descriptor for writing for an exclusive lock.
    descriptor = os.open(file, os.O_RDWR)
    locks.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(file: Path, shape: tuple[int, int], kind: DTypeLike) -> np.memmap[Any, Any]:
    """Create a memory-mapped matrix in a new file, with its disk space reserved."""
    matrix = np.lib.format.open_memmap(file, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):
        # A full disk during a write through memory kills the process: it is not an error that can be caught.
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
