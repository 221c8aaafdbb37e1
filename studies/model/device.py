"""The device of tensors, and how work is cut up and computed on each kind of it; cores and free memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch

from studies.machine_memory import available_memory
from studies.model.bf16_speed import bf16_is_faster

Attention = Literal["eager", "sdpa"]


@dataclass(frozen=True)
class DeviceSettings:
    """What is done differently on a CPU and on a GPU.

    Attributes:
        attention: Kernel of BERT's layers, where neither the study file nor the learner needs another.
        bf16: Whether matrix products outside `full_precision` are in bf16; None where that is faster.
        encode_tokens: Padded tokens of a batch that is encoded without a gradient.
        train_elements: Most elements of the hidden state in one pass of the layers that train.
        vmap_elements: Elements in the largest tensor of an operation up to which episodes run side by side.
        distil_tokens: Padded tokens of a batch that a student is trained on.
        serve_tokens: Padded tokens of a batch that a student serves.
    """

    attention: Attention
    encode_tokens: int
    train_elements: int
    vmap_elements: int
    distil_tokens: int
    serve_tokens: int
    bf16: bool | None = None


# Measured (docs/decisions.md). SDPA's backward pass over short texts is slower than eager's, in bf16 three times.
# Small batches stay in the caches: groups of texts of similar length halve the time of MiniLM in training; of 256 to
# 16,384 tokens, 2,048 is the fastest in serving, by a fifth over 8,192, and 1,024 in fp32 and bf16 without a gradient,
# where SDPA and eager are equally fast. Side by side, episodes gain up to the elements that take as long as starting an
# operation.
CPU = DeviceSettings(
    attention="eager",
    encode_tokens=1024,
    train_elements=2**18,
    vmap_elements=2**16,
    distil_tokens=2048,
    serve_tokens=2048,
)
# Not measured: batches of which a product of MiniLM takes some ten times as long as starting it (about 5 us).
# `benchmarks/gpu.py` measures the alternatives and prints which to ship.
CUDA = DeviceSettings(
    attention="sdpa",
    encode_tokens=2**15,
    train_elements=2**24,
    vmap_elements=2**21,
    distil_tokens=2**15,
    serve_tokens=2**15,
)
_overridden: DeviceSettings | None = None
_full_precision = ContextVar("full_precision", default=False)


@cache
def device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_settings() -> DeviceSettings:
    """Return the settings in force: those of the device's kind, unless `override_settings` is."""
    return _overridden or (CUDA if device().type == "cuda" else CPU)


@contextmanager
def override_settings(**changes: Any) -> Iterator[DeviceSettings]:
    """Change settings for all threads within the block, to compare alternatives.

    Args:
        changes: New values, by the names of `DeviceSettings`.
    """
    global _overridden
    before = _overridden
    _overridden = replace(device_settings(), **changes)
    try:
        yield _overridden
    finally:
        _overridden = before


@cache
def fast_bf16() -> bool:
    """Return whether bf16 matrix products are fast: on CUDA with units for them, on a CPU by a measurement."""
    if device().type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bf16_is_faster()


def uses_bf16() -> bool:
    """Return whether `autocast` is bf16 here and now."""
    wanted = device_settings().bf16
    return not _full_precision.get() and (fast_bf16() if wanted is None else wanted)


def autocast() -> AbstractContextManager[None]:
    """Return bf16 autocast where that is used, otherwise a context that changes nothing."""
    return torch.autocast(device().type, torch.bfloat16, enabled=uses_bf16())


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep `autocast` at fp32 within the block, for published metrics and vectors that must be reproducible."""
    token = _full_precision.set(True)
    try:
        yield
    finally:
        _full_precision.reset(token)


def cores() -> int:
    """Return the number of cores that this process may use; a scheduler may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_cores(workers: int, threads: int | None = None) -> None:
    """Set the number of torch's threads so that all worker processes together have one per core.

    Where `OMP_NUM_THREADS` is set, as by a scheduler that gives a container fewer cores than it sees, it is the most.

    Args:
        workers: Number of worker processes on this machine.
        threads: Number of threads of this process, where it is given.
    """
    part, most = max(1, cores() // workers), os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(threads or (min(part, int(most)) if most.isdecimal() and int(most) else part))


def free_memory() -> int:
    """Return the bytes of free memory: of the GPU, else of the machine or container."""
    return int(torch.cuda.mem_get_info()[0]) if device().type == "cuda" else available_memory()
